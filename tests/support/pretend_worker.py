"""Simulated workers: they take trials from a real queue and report computed learning curves."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rq.exceptions import NoSuchJobError
from rq.job import Job

from scattershot_common.bus.connection import connect
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialQueue
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.bus.trial_state import Claim, TrialStates, finish, report
from scattershot_common.bus.workers import Heartbeat, write_heartbeat
from scattershot_common.seeds import derive
from scattershot_common.store.checkpoint_names import checkpoint_name
from scattershot_common.store.retention import obsolete_checkpoints
from scattershot_common.trial import Value
from support.checkpoints import trial_folder

Metrics = dict[str, float]
Params = dict[str, Value]


def curve(params: Params, seed: int, epoch: int) -> Metrics:
    """Return an epoch's metrics, a function of its arguments alone: best around lr 0.01."""
    fit = math.exp(-((math.log10(float(params["lr"])) + 2) ** 2) / 2) - 0.2 * float(
        params["dropout"]
    )
    noise = random.Random(derive(seed, "noise", epoch)).uniform(-0.02, 0.02)
    value = 0.5 + 0.4 * fit * (1 - math.exp(-epoch / 2)) + noise
    return {"val_accuracy": value, "val_loss": 2.3 * (1 - value), "train_loss": 2 * (1 - value)}


@dataclass
class _Slot:
    """One worker, and the attempt it is at."""

    name: str
    spec: TrialSpec | None = None
    attempt: int = 0
    epoch: int = 0
    until: int = 0


class PretendWorkers:
    """`count` workers in one thread, which acts for one of them at a time.

    `fault(trial, attempt, epoch)` names the fault, if any, that the worker has before an epoch:

    - "": none
    - "wait": no progress, but it renews its lease
    - "silent": no progress, and its lease is not renewed
    - "crash": its process dies, and it gives the trial back
    - "vanish": it is gone for good, and its lease has run out
    - "zombie": the same, but it comes back once another worker has the trial, and reports
    - "fail: why": its task raises
    - "drain": it gives the trial back
    - "drop": it dies between the queue and its claim

    With a `seed` the workers take turns in a shuffled order, without one in a fixed order. With a
    `folder` (the output root) checkpoint files, without anything in them, are written and thinned
    out as the real worker does.
    """

    def __init__(
        self,
        url: str,
        count: int = 2,
        *,
        curve: Callable[[Params, int, int], Metrics] = curve,
        fault: Callable[[int, int, int], str] = lambda trial, attempt, epoch: "",
        seed: int | None = None,
        folder: Path | None = None,
    ) -> None:
        # real workers bridge an outage, too
        self._states = connect(url, retries=100)
        self._queue = TrialQueue(connect(url, decode=False, retries=100))
        self._slots = [_Slot(f"pretend-{index}") for index in range(count)]
        self._zombies: list[_Slot] = []
        self._curve, self._fault, self._folder = curve, fault, folder
        self._random = random.Random(seed) if seed is not None else None
        self._accepted: dict[int, dict[int, float]] = {}
        self._next_pulse = 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        #: Epochs trained, as (trial, attempt, epoch), in order; fenced ones of zombies too.
        self.trained: list[tuple[int, int, int]] = []
        #: The answers to the reports of zombies.
        self.zombie_answers: list[object] = []
        self.error: Exception | None = None

    def __enter__(self) -> PretendWorkers:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        while not self._end.is_set():
            try:
                self._pulse()
                slots = [*self._slots]
                if self._random:
                    self._random.shuffle(slots)
                    del slots[self._random.randint(1, len(slots)) :]
                if not any([self._step(slot) for slot in slots]):
                    time.sleep(0.002)
                for zombie in [*self._zombies]:
                    self._report_late(zombie)
            except Exception as error:  # for the test's own thread to raise
                self.error = error
                return

    def _pulse(self) -> None:
        if time.monotonic() < self._next_pulse:
            return
        self._next_pulse = time.monotonic() + 0.5
        for slot in self._slots:
            write_heartbeat(self._states, Heartbeat(slot.name, "here", 1, "cpu", "0", 0.0))

    def _step(self, slot: _Slot) -> bool:
        """Act for one worker; return whether there was anything to do."""
        if slot.spec is None:
            return self._take(slot)
        word = ""
        if slot.epoch < slot.until:
            word = self._fault(slot.spec.trial, slot.attempt, slot.epoch + 1)
        states = TrialStates(self._states, slot.spec.study)
        if word == "silent":
            return False
        if word == "wait":
            self._obey(slot, states.renew(slot.spec.trial, slot.attempt))
            return False
        if word in ("crash", "drain"):
            self._give_back(slot, Outcome(word))
        elif word in ("vanish", "zombie"):
            self._states.zadd(states.keys.running, {str(slot.spec.trial): 1}, xx=True)
            if word == "zombie":
                self._zombies.append(_Slot(slot.name, slot.spec, slot.attempt, slot.epoch))
            slot.spec = None
        elif word.startswith("fail: "):
            self._finish(slot, "failed", word.removeprefix("fail: "))
        elif slot.epoch < slot.until:
            self._train(slot)
        if slot.spec is not None and slot.epoch >= slot.until:
            self._finish(slot, "complete" if slot.until >= slot.spec.epochs else "paused")
        return True

    def _take(self, slot: _Slot) -> bool:
        rq = self._queue.rq
        job_id: Any = rq.connection.lpop(rq.key)
        if job_id is None:
            return False
        try:
            job = Job.fetch(job_id.decode(), connection=rq.connection, serializer=rq.serializer)
        except NoSuchJobError:
            return True
        text, attempt, *_ = job.args
        spec = TrialSpec.from_json(text)
        if self._fault(spec.trial, attempt, 0) == "drop":
            return True
        claim: Claim = TrialStates(self._states, spec.study).claim(spec.trial, attempt, slot.name)
        rq.connection.delete(job.key)
        if claim.granted:
            slot.spec, slot.attempt, slot.epoch = spec, attempt, claim.epoch
            slot.until = claim.until
        return True

    def _train(self, slot: _Slot) -> None:
        spec = slot.spec
        assert spec is not None
        epoch = slot.epoch + 1
        self.trained.append((spec.trial, slot.attempt, epoch))
        metrics = self._curve(dict(spec.params), spec.seed, epoch)
        value, name = metrics["val_accuracy"], ""
        if math.isfinite(value):
            name = checkpoint_name("val_accuracy", value, spec.trial, epoch)
            self._write(spec, name)
        states = TrialStates(self._states, spec.study)
        (answer,) = states.run([report(spec.trial, slot.attempt, epoch, metrics, name)])
        slot.epoch = epoch
        self._accepted.setdefault(spec.trial, {})[epoch] = value
        self._thin(spec)
        # as a real worker does: after its last epoch a trial ends, whatever the answer
        if epoch < slot.until or answer == StopReason.FENCED:
            self._obey(slot, StopReason.of(answer))

    def _obey(self, slot: _Slot, stop: StopReason | None) -> None:
        if stop is StopReason.FENCED:
            slot.spec = None
        elif stop is StopReason.KILL:
            self._finish(slot, "killed")
        elif stop is StopReason.HOLD:
            self._give_back(slot, Outcome.HOLD)

    def _finish(self, slot: _Slot, state: str, reason: str = "") -> None:
        spec, slot.spec = slot.spec, None
        assert spec is not None
        steps = [finish(spec.trial, slot.attempt, state, reason)]
        TrialStates(self._states, spec.study).run(steps)

    def _give_back(self, slot: _Slot, outcome: Outcome) -> None:
        spec, slot.spec = slot.spec, None
        assert spec is not None
        state = TrialStates(self._states, spec.study).requeue(
            spec.trial, slot.attempt, outcome, max_failures=3, reason="its process exited"
        )
        if state == "waiting" and outcome is not Outcome.HOLD:
            self._queue.put_front(spec, slot.attempt + 1)

    def _report_late(self, zombie: _Slot) -> None:
        """Report for a worker that was given up, once another one has its trial."""
        spec = zombie.spec
        assert spec is not None
        states = TrialStates(self._states, spec.study)
        if int(self._states.hget(states.keys.trial(spec.trial), "attempt") or 0) > zombie.attempt:
            metrics = {"val_accuracy": 99.0, "val_loss": 0.0, "train_loss": 0.0}
            steps = [
                report(spec.trial, zombie.attempt, zombie.epoch + 1, metrics, "wrong"),
                finish(spec.trial, zombie.attempt, "complete"),
            ]
            self.zombie_answers.append(states.run(steps)[0])
            self._zombies.remove(zombie)

    def _write(self, spec: TrialSpec, name: str) -> None:
        if self._folder is not None:
            folder = trial_folder(self._folder / spec.study, spec.trial)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    def _thin(self, spec: TrialSpec) -> None:
        if self._folder is not None:
            folder = trial_folder(self._folder / spec.study, spec.trial)
            names = [path.name for path in folder.glob("*")]
            for name in obsolete_checkpoints(names, self._accepted[spec.trial]):
                (folder / name).unlink()
