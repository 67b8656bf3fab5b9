"""The trials on the queue that fit a pack: which they are, how many to take, and their claim."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scattershot_common.bus.lane_signatures import Signatures
from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_spec import QueuedAttempt, TrialSpec
from scattershot_common.bus.trial_state import TrialStates
from scattershot_common.task.task import Data, Task
from scattershot_worker.attempt.attempt import Attempt, StopSignal
from scattershot_worker.attempt.lifecycle import WorkerContext
from scattershot_worker.child.pack_cache import PackCache
from scattershot_worker.child.shared_state import SharedState
from scattershot_worker.engine.engine import Signature
from scattershot_worker.fused import Plan, probe
from scattershot_worker.training.training import Training, make_training

log = logging.getLogger("scattershot.worker")

#: Waiting trials, from the head of the queue, among which a pack searches for those that fit it.
_DEPTH = 512
#: Trials whose signature is determined in one search.
_PROBES = 64
#: Seconds between two searches that found nothing.
_PAUSE = 0.5


class Recruiter:
    """Takes trials of one study and signature off the queue, for one pack."""

    def __init__(
        self,
        context: WorkerContext,
        pack_cache: PackCache,
        info: StudyInfo,
        task: Task,
        data: Data,
        signature: Signature,
        plan: Plan,
        shared: SharedState,
        tell_claimed: Callable[[QueuedAttempt], StopSignal],
    ) -> None:
        self._context, self._pack_cache, self._info = context, pack_cache, info
        self._task, self._data, self._signature = task, data, signature
        self._signatures = Signatures(context.connection, info.name)
        #: Tells the supervisor of a claimed attempt; returns what its stops arrive in.
        self._tell_claimed = tell_claimed
        self._shared = shared
        #: How many lanes there may be.
        self.plan = plan
        self._search_at = 0.0
        #: Whether, at the last search, trials waited that do not fit, and whether it was cut
        #: short: there may be more that do.
        self._misfits = self._cut_short = False

    @contextmanager
    def listed(self) -> Iterator[None]:
        """Let other workers know inside that this one trains trials of the signature."""
        with suppress(*REDIS_OUTAGE):
            self._signatures.join(self._context.worker, self._signature.key)
        try:
            yield
        finally:
            with suppress(*REDIS_OUTAGE):
                self._signatures.leave(self._context.worker)

    def trained_elsewhere(self) -> bool:
        """Return whether another worker trains the signature, and trials of others wait for this.

        As the last search found it.
        """
        if not self._misfits:
            return False
        try:
            return self._signature.key in self._signatures.elsewhere(self._context.worker)
        except REDIS_OUTAGE:
            return False

    def recruit(self, lanes: int, left: int) -> list[tuple[Attempt, Training]]:
        """Claim trials that fit, beside `lanes` that have `left` epochs to train in all."""
        room = self.plan.lanes - lanes
        if room <= 0 or time.monotonic() < self._search_at:
            return []
        try:
            fitting = self._search(room, left)
        except REDIS_OUTAGE as error:  # the lanes that there are go on without it
            log.warning("Redis does not answer (%s); training goes on", error)
            fitting = []
        if not fitting:
            self._search_at = time.monotonic() + (0.0 if self._cut_short else _PAUSE)
            return []
        states = TrialStates(self._context.connection, self._info.name)
        numbers = [(waiting.spec.trial, waiting.number) for waiting, _ in fitting]
        claims = states.claim_all(numbers, self._context.worker)
        checkpoints = self._context.checkpoints(self._info)
        claimed: list[QueuedAttempt] = []
        recruits: list[tuple[Attempt, Training]] = []
        for (waiting, training), claim in zip(fitting, claims, strict=True):
            if claim.granted:
                spec, number = waiting.spec, waiting.number
                signals = self._tell_claimed(waiting)
                attempt = Attempt(spec, number, self._info, claim, states, checkpoints, signals)
                recruits.append((attempt, training))
                claimed.append(waiting)
        self._pack_cache.waiting.remove(claimed)
        return recruits

    def _search(self, room: int, left: int) -> list[tuple[QueuedAttempt, Training]]:
        """Return up to `room` trials that fit, each freshly made; none is claimed.

        No more than this worker's share of all epochs that are still to be trained, of which its
        lanes have `left`: the rest is for the other workers. Raises one of `REDIS_OUTAGE`.
        """
        info, queue = self._info, self._pack_cache.waiting
        waiting = queue.look(info.name, info.uid, _DEPTH)
        key, known = self._signature.key, self._pack_cache.known
        likely = [trial for trial in waiting if known.get(trial.job, key) == key]
        self._misfits, self._cut_short = len(likely) < len(waiting), False
        if not likely:
            return []
        all_left = sum(trial.spec.epochs for trial in waiting) + queue.epochs_left(info.name)
        share = all_left / queue.workers() - left
        fitting: list[tuple[QueuedAttempt, Training]] = []
        probes = 0
        for trial, failures in zip(likely, queue.failures(likely), strict=True):
            if len(fitting) >= room or share < trial.spec.epochs / 2:
                break
            if failures + 1 >= info.max_failures:
                continue
            if not trial.is_authentic():
                continue
            if trial.job not in known and (probes := probes + 1) > _PROBES:
                self._cut_short = True
                break
            if training := self._training(trial.spec, trial.job):
                fitting.append((trial, training))
                share -= trial.spec.epochs
            else:
                self._misfits = True
        return fitting

    def _training(self, spec: TrialSpec, job: str) -> Training | None:
        """Return the trial freshly made, if it fits."""
        try:
            training = make_training(self._task, self._data, spec, self._context.device)
            signature = probe(self._task, training, self._data)
        except BaseException:  # it is trained alone, and its error is reported then
            self._pack_cache.remember(job, "")
            self._shared.restore()
            return None
        if self._shared.changes():  # lanes would share what its model() keeps
            self._pack_cache.remember(job, "")
            self._shared.restore()
            return None
        self._pack_cache.remember(job, signature.key)
        return training if signature == self._signature else None
