"""Owns a pack: trials of one worker that train as lanes of one program.

Each of its trials keeps its own claim, lease, signals, reports and checkpoints; only the
arithmetic is shared. The supervisor hands over the first; the pack takes further ones that fit
it off the queue, whenever a lane is free.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from scattershot_common.bus import active_packs
from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_state import TrialStates
from scattershot_common.task.task import Task
from scattershot_worker.attempt.attempt import (
    ClaimedTrial,
    WorkerContext,
    attempt_at,
    conclude,
    conclude_all,
    out_of_memory,
    release_memory,
    where,
)
from scattershot_worker.attempt.stop_signal import StopSignal, TrialStopped
from scattershot_worker.attempt.trial_handle import TrialHandle
from scattershot_worker.child.pack_cache import PackCache
from scattershot_worker.child.recruiter import Recruiter
from scattershot_worker.fused import Engine, Lane, Plan
from scattershot_worker.monitors.metrics import machine_usage
from scattershot_worker.training.data import data_on, tensors_of
from scattershot_worker.training.evaluation import Evaluation, targets_of
from scattershot_worker.training.training import Training

log = logging.getLogger("scattershot.worker")

#: Seconds between two looks that found nothing.
_LOOK_AGAIN = 0.5


class Line(Protocol):
    """What tells the supervisor of what the child does."""

    def took(self, text: str, number: int, signature: str, key: tuple[str, int, int]) -> StopSignal:
        """Tell of a lane that was claimed; return what its stops arrive in."""

    def ended(self, key: tuple[str, int, int], outcome: Outcome, reason: str) -> None:
        """Tell how an attempt went."""

    def wants(self, lanes: int) -> None:
        """Tell how many trials may be trained at a time."""


@dataclass
class _Member:
    """A trial of the pack."""

    taken: ClaimedTrial
    trial: TrialHandle
    lane: Lane

    @property
    def key(self) -> tuple[str, int, int]:
        return self.taken.spec.study, self.taken.spec.trial, self.taken.attempt.number

    @property
    def signals(self) -> StopSignal:
        return self.taken.attempt.signals


class NoLanesLeft(BaseException):
    """Leaves an epoch in which no lane is left."""


class Pack:
    """Lanes of one signature, trained until none is left and none that fits is waiting."""

    def __init__(
        self,
        bench: WorkerContext,
        packing: PackCache,
        line: Line,
        info: StudyInfo,
        task: Task,
        engine: Engine,
        plan: Plan,
    ) -> None:
        self._bench, self._packing, self._line = bench, packing, line
        self._recruiter = Recruiter(bench, packing, info, task, engine.signature)
        self._info, self._task, self._engine, self._plan = info, task, engine, plan
        self._members: dict[Lane, _Member] = {}
        self._look_at = 0.0
        #: Whether to take no further trials.
        self.closed = False

    def run(self) -> None:
        """Train until no lane is left. Nothing a task does raises out of here."""
        about = self._bench.connection, self._info.name, self._bench.worker
        with suppress(*REDIS_OUTAGE):
            active_packs.join(*about, self._engine.signature.key)
        try:
            self._refill()
            if not self._yields():
                self._train()
        finally:
            with suppress(*REDIS_OUTAGE):
                active_packs.leave(*about)

    def _train(self) -> None:
        while self._members:
            try:
                self._epoch()
            except NoLanesLeft:
                pass
            except (Exception, SystemExit) as error:
                self._break(error)
            self._refill()

    def _yields(self) -> bool:
        """Give the only lane back where it would be trained alone beside a pack of its kind.

        Another worker trains such, this one has others to train, and it was not given back before.
        """
        members = [*self._members.values()]
        if len(members) != 1 or members[0].taken.attempt.number > 1:
            return False
        if not self._recruiter.strangers:
            return False
        (member,) = members
        try:
            about = self._bench.connection, self._info.name, self._bench.worker
            if self._engine.signature.key not in active_packs.others(*about):
                return False
        except REDIS_OUTAGE:
            return False
        self._drop(member)
        self._line.ended(member.key, Outcome.YIELD, "another worker trains trials of its kind")
        return True

    # ---- trials come

    def admit(self, taken: ClaimedTrial, trial: TrialHandle, training: Training) -> None:
        """Give a claimed trial a lane; whatever is wrong with it ends it alone."""
        lane = self._engine.lane(training)
        member = _Member(taken, trial, lane)
        trial.patience = training.settings.early_stopping
        try:
            trial.open(lane.parts)
            self._engine.admit(lane)
        except (Exception, SystemExit, TrialStopped) as error:
            self._leave(member, error)
        else:
            self._members[lane] = member

    def _refill(self) -> None:
        """Take trials that fit off the queue, as many as there are free lanes, and fairly."""
        room = self._plan.lanes - len(self._members)
        if self.closed or room <= 0 or time.monotonic() < self._look_at:
            return
        try:
            left = sum(member.trial.left for member in self._members.values())
            found = self._recruiter.look(room, left)
        except REDIS_OUTAGE as error:  # the lanes that there are go on without it
            log.warning("Redis does not answer (%s); training goes on", error)
            found = []
        if not found:
            pause = 0.0 if self._recruiter.cut_short else _LOOK_AGAIN
            self._look_at = time.monotonic() + pause
            return
        attempts = [(one.spec.trial, one.number) for one, _ in found]
        states = TrialStates(self._bench.connection, self._info.name)
        claims = states.claim_all(attempts, self._bench.worker)
        taken = [
            (one, training, claim)
            for (one, training), claim in zip(found, claims, strict=True)
            if claim.granted
        ]
        for one, training, claim in taken:
            key = (one.spec.study, one.spec.trial, one.number)
            signals = self._line.took(one.text, one.number, one.signature, key)
            attempt = attempt_at(self._bench, self._info, one.spec, one.number, signals)
            member = ClaimedTrial(one.spec, self._info, attempt, claim)
            self.admit(member, member.handle(self._bench), training)
        self._packing.waiting.remove(one for one, _, _ in taken)

    # ---- an epoch

    def _epoch(self) -> None:
        over = []
        for member in [*self._members.values()]:
            try:
                epoch = member.trial.next_epoch()
            except (Exception, TrialStopped) as error:
                self._leave(member, error)
                continue
            if epoch is None:
                over.append(member)
            else:
                member.lane.training.begin_epoch(epoch, member.trial.history)
        self._finish(over)
        if not self._members:
            return
        began = time.perf_counter()
        data = data_on(self._task, self._bench.device)
        lanes, examples = len(self._members), len(tensors_of(data.train)[1])
        self._engine.monitors = self._info.monitors
        losses = self._engine.train_epoch(self._check)
        results = self._engine.evaluate(data.val, self._check)
        averaged = self._engine.evaluate(data.val, self._check, averaged=True)
        seconds = time.perf_counter() - began
        self._plan.observe(lanes, seconds)
        of_machine = machine_usage(self._bench.device, examples, seconds)
        with self._bench.reporter.together():
            for lane, result in results.items():
                if lane in self._members:
                    average = averaged[lane].metrics if lane in averaged else {}
                    self._report(lane, result, average, losses[lane], of_machine)

    def _report(
        self,
        lane: Lane,
        result: Evaluation,
        average: dict[str, float],
        loss: float,
        of_machine: dict[str, float],
    ) -> None:
        """Report a lane's epoch; `average` are the metrics of its averaged weights, if any."""
        member, data = self._members[lane], data_on(self._task, self._bench.device)
        try:
            seen, layers = self._engine.seen(lane, tensors_of(data.val)[0], result)
            member.trial.report(
                {
                    **{f"val_{name}": value for name, value in result.metrics.items()},
                    **{f"val_{name}_ema": value for name, value in average.items()},
                },
                train_loss=loss,
                lr=lane.training.lr,
                **seen,
                **of_machine,
                layers=layers,
                predictions=result.predictions,
                targets=targets_of(self._task, result.targets),
            )
        except (Exception, TrialStopped) as error:
            self._leave(member, error)

    def _check(self) -> None:
        """Let the lanes go that must stop; leave the epoch once none is left."""
        for member in self._members.values():
            signals = member.signals
            signals.progress += 1
            if signals.stop is not None or signals.error is not None:
                break
        else:
            return
        for member in [*self._members.values()]:
            try:
                member.signals.check()
            except (Exception, TrialStopped) as error:
                self._leave(member, error)
        if not self._members:
            raise NoLanesLeft

    # ---- trials go

    def _drop(self, member: _Member) -> None:
        """Let a lane go, if it was given one."""
        if self._members.pop(member.lane, None) is not None:
            self._engine.release(member.lane)

    def _finish(self, members: list[_Member]) -> None:
        """Let lanes go that have trained all their epochs."""
        if not members:
            return
        for member in members:
            self._drop(member)
        outcomes = conclude_all(self._bench, [member.taken for member in members])
        for member, outcome in zip(members, outcomes, strict=True):
            self._line.ended(member.key, *outcome)

    def _leave(self, member: _Member, error: BaseException) -> None:
        if isinstance(error, TrialStopped) and error.reason in (StopReason.DRAIN, StopReason.HOLD):
            self.closed = True  # the worker leaves, or the study stops: nothing more is begun
        self._drop(member)
        self._line.ended(member.key, *conclude(self._bench, member.taken, error))

    def _break(self, error: BaseException) -> None:
        """Give all lanes up after an error that may be any one's; alone, it tells whose it is."""
        members = [*self._members.values()]
        if len(members) == 1:
            self._leave(members[0], error)
            return
        for member in members:
            self._drop(member)
            self._bench.reporter.flush(member.taken.attempt)
            if out_of_memory(error):
                self._line.ended(member.key, Outcome.DRAIN, "")
            else:
                self._line.ended(member.key, Outcome.CRASH, f"in a pack: {where(error)}")
        if out_of_memory(error):
            release_memory()
            self._plan.shrink()
            log.warning("out of memory with %d lanes: fewer from now on", len(members))
