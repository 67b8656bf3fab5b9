"""Owns a pack's look at the queue: which trials that wait fit it, and how many are its share."""

from __future__ import annotations

from scattershot_common.bus.queue import TrialSpec
from scattershot_common.bus.queue_scan import Waiting
from scattershot_common.bus.signing import fits, secret
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.task.task import Task
from scattershot_worker.attempt.attempt import WorkerContext
from scattershot_worker.child.pack_cache import PackCache
from scattershot_worker.fused import Signature, probe
from scattershot_worker.training.data import data_on
from scattershot_worker.training.training import Training, make_training

#: How far down the queue a pack looks for trials that fit it.
_LOOK = 512
#: Trials that are looked into at one look.
_PROBES = 64


class Recruiter:
    """Finds trials of one study and signature on the queue. It claims none."""

    def __init__(
        self,
        bench: WorkerContext,
        packing: PackCache,
        info: StudyInfo,
        task: Task,
        signature: Signature,
    ) -> None:
        self._bench, self._packing, self._info = bench, packing, info
        self._task, self._signature = task, signature
        #: Whether trials were waiting, at the last look, that do not fit, and whether it was cut
        #: short: there may be more that do.
        self.strangers = self.cut_short = False

    def look(self, room: int, left: int) -> list[tuple[Waiting, Training]]:
        """Return up to `room` trials that fit, each freshly made.

        No more than this worker's share of all epochs that are still to be trained, of which its
        lanes have `left`: the others want to work as well. Raises one of `REDIS_OUTAGE`.
        """
        info, waiting = self._info, self._packing.waiting
        there = waiting.look(info.name, info.uid, _LOOK)
        key, known = self._signature.key, self._packing.known
        likely = [one for one in there if known.get(one.job, key) == key]
        self.strangers, self.cut_short = len(likely) < len(there), False
        if not likely:
            return []
        all_left = sum(one.spec.epochs for one in there) + waiting.left(info.name)
        share = all_left / waiting.workers() - left
        found: list[tuple[Waiting, Training]] = []
        probes = 0
        for one, failures in zip(likely, waiting.failures(likely), strict=True):
            if len(found) >= room or share < one.spec.epochs / 2:
                break
            if failures + 1 >= info.max_failures or not fits(one.text, one.signature, secret()):
                continue
            if one.job not in known and (probes := probes + 1) > _PROBES:
                self.cut_short = True
                break
            if training := self._training(one.spec, one.job):
                found.append((one, training))
                share -= one.spec.epochs
            else:
                self.strangers = True
        return found

    def _training(self, spec: TrialSpec, job: str) -> Training | None:
        """Return the model of a trial and all that trains it, if it fits."""
        try:
            training = make_training(
                self._task,
                spec.params,
                seed=spec.seed,
                budget=spec.epochs,
                device=self._bench.device,
            )
            signature = probe(self._task, training, data_on(self._task, self._bench.device))
        except (Exception, SystemExit):  # it is trained alone, and says then what is wrong
            self._packing.remember(job, "")
            return None
        self._packing.remember(job, signature.key)
        return training if signature == self._signature else None
