"""A pack: trials that one worker trains at a time, alone or as lanes of one program.

Each of its trials keeps its own claim, lease, signals, reports and checkpoints; only the
arithmetic is shared. The supervisor hands over the first; a pack of lanes takes further ones that
fit it off the queue, whenever a lane is free.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from torch import Tensor

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_spec import AttemptKey, QueuedAttempt
from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data, Task
from scattershot_worker.attempt.attempt import Attempt, StopSignal, TrialStopped
from scattershot_worker.attempt.error_text import describe
from scattershot_worker.attempt.lifecycle import (
    WorkerContext,
    conclude,
    conclude_all,
    out_of_memory,
    release_memory,
)
from scattershot_worker.attempt.trial_handle import EpochReport, TrialHandle
from scattershot_worker.child.recruiter import Recruiter
from scattershot_worker.engine.engine import Engine, LaneT
from scattershot_worker.monitors.metrics import machine_usage
from scattershot_worker.training.evaluation import Evaluation, targets_of
from scattershot_worker.training.training import Training

log = logging.getLogger("scattershot.worker")


class Supervisor(Protocol):
    """What a child tells its supervisor."""

    def began(self, info: StudyInfo) -> None:
        """Tell which study is worked on."""

    def claimed(self, attempt: QueuedAttempt) -> StopSignal:
        """Tell of an attempt that was claimed off the queue; return what its stops arrive in."""

    def ended(self, key: AttemptKey, outcome: Outcome, reason: str) -> None:
        """Tell how an attempt went."""

    def wants(self, lanes: int) -> None:
        """Tell how many trials may be trained at a time."""


class NoLanesLeft(BaseException):
    """Leaves an epoch in which no lane is left."""


@dataclass(frozen=True)
class _Member(Generic[LaneT]):
    """A trial of the pack: the attempt at it, its side towards the study, and its lane."""

    attempt: Attempt
    trial: TrialHandle
    lane: LaneT


class Pack(Generic[LaneT]):
    """The lanes of one engine, trained until none is left and none that fits is waiting."""

    def __init__(
        self,
        context: WorkerContext,
        supervisor: Supervisor,
        info: StudyInfo,
        task: Task,
        data: Data,
        engine: Engine[LaneT],
        recruiter: Recruiter | None = None,
    ) -> None:
        """Take an engine without lanes. Without a recruiter no trials are added off the queue."""
        self._context, self._supervisor = context, supervisor
        self._task, self._data = task, data
        self._engine, self._recruiter = engine, recruiter
        engine.monitors = info.monitors
        self._members: dict[LaneT, _Member[LaneT]] = {}
        #: Whether to take no further trials.
        self.closed = recruiter is None

    def run(self) -> None:
        """Train until no lane is left. Nothing a task does raises out of here."""
        if self._recruiter is None:
            self._train()
            return
        with self._recruiter.listed():
            self._refill()
            if not self._yields(self._recruiter):
                self._train()

    def _train(self) -> None:
        while self._members:
            try:
                self._epoch()
            except NoLanesLeft:
                pass
            except BaseException as error:  # a user's code may raise any
                self._break(error)
            self._refill()

    def _yields(self, recruiter: Recruiter) -> bool:
        """Give the only trial back where it would train alone beside a pack of its kind.

        Another worker trains such a pack, this one has other trials to train, and the trial was
        not given back before.
        """
        members = [*self._members.values()]
        if len(members) != 1 or members[0].attempt.number > 1 or not recruiter.trained_elsewhere():
            return False
        (member,) = members
        self._drop(member)
        reason = "another worker trains trials of its kind"
        self._supervisor.ended(member.attempt.key, Outcome.YIELD, reason)
        return True

    # ---- trials come

    def admit(self, attempt: Attempt, training: Training) -> None:
        """Give a claimed trial a lane; whatever is wrong with it ends it alone."""
        lane = self._engine.lane(training)
        member = _Member(attempt, self._context.handle(attempt), lane)
        member.trial.patience = training.settings.early_stopping
        try:
            member.trial.open(lane.parts)
            self._engine.admit(lane)
        except BaseException as error:
            self._leave(member, error)
        else:
            self._members[lane] = member

    def _refill(self) -> None:
        """Take trials that fit off the queue, as many as there are free lanes, and fairly."""
        if self.closed or self._recruiter is None:
            return
        left = sum(member.trial.left for member in self._members.values())
        for attempt, training in self._recruiter.recruit(len(self._members), left):
            self.admit(attempt, training)

    # ---- an epoch

    def _epoch(self) -> None:
        complete = []
        for member in [*self._members.values()]:
            try:
                epoch = member.trial.next_epoch()
            except BaseException as error:
                self._leave(member, error)
                continue
            if epoch is None:
                complete.append(member)
            else:
                member.lane.training.begin_epoch(epoch, member.trial.history)
        self._finish(complete)
        if not self._members:
            return
        began, lanes = time.perf_counter(), len(self._members)
        trained = self._engine.train_epoch(self._check)
        evaluations = self._engine.evaluate(self._data.val, self._check)
        averaged = self._engine.evaluate(self._data.val, self._check, averaged=True)
        seconds = time.perf_counter() - began
        if self._recruiter is not None:
            self._recruiter.plan.observe(lanes, seconds)
        usage = machine_usage(self._context.device, trained.examples, seconds)
        with self._context.reporter.together():
            for lane, evaluation in evaluations.items():
                if lane in self._members:
                    self._report(
                        self._members[lane],
                        trained.losses[lane],
                        evaluation,
                        averaged.get(lane),
                        usage,
                    )

    def _report(
        self,
        member: _Member[LaneT],
        loss: float | Tensor,
        evaluation: Evaluation,
        averaged: Evaluation | None,
        usage: Mapping[str, float],
    ) -> None:
        """Report a lane's epoch; `averaged` is the evaluation of its averaged weights, if any."""
        training = member.lane.training
        metrics: dict[str, Any] = {f"val_{k}": value for k, value in evaluation.metrics.items()}
        try:
            if averaged is not None and training.average is not None:
                name = training.average.name
                of_average = {f"val_{k}_{name}": value for k, value in averaged.metrics.items()}
                if twice := of_average.keys() & metrics.keys():
                    raise TaskError(
                        f"metrics() gives {min(twice)[4:]!r}, which is what is reported of the "
                        f"averaged weights ({name}); call it otherwise"
                    )
                metrics |= of_average
            observed, layers = self._engine.observations(member.lane, evaluation)
            metrics |= {"train_loss": loss, "lr": training.lr, **observed, **usage}
            targets = targets_of(self._task, evaluation.targets)
            member.trial.record(EpochReport(metrics, layers, evaluation.predictions, targets))
        except BaseException as error:
            self._leave(member, error)

    def _check(self) -> None:
        """Let the lanes go that must stop; leave the epoch once none is left."""
        for member in self._members.values():
            signals = member.attempt.signals
            signals.progress += 1
            if signals.stop is not None or signals.error is not None:
                break
        else:
            return
        for member in [*self._members.values()]:
            try:
                member.attempt.signals.check()
            except BaseException as error:
                self._leave(member, error)
        if not self._members:
            raise NoLanesLeft

    # ---- trials go

    def _drop(self, member: _Member[LaneT]) -> None:
        """Let a lane go, if it was given one."""
        if self._members.pop(member.lane, None) is not None:
            self._engine.release(member.lane)

    def _finish(self, members: list[_Member[LaneT]]) -> None:
        """Let lanes go that have trained all their epochs."""
        if not members:
            return
        for member in members:
            self._drop(member)
        attempts = [member.attempt for member in members]
        endings = conclude_all(self._context.reporter, attempts)
        for attempt, ending in zip(attempts, endings, strict=True):
            self._supervisor.ended(attempt.key, *ending)

    def _leave(self, member: _Member[LaneT], error: BaseException) -> None:
        if isinstance(error, TrialStopped) and error.reason in (StopReason.DRAIN, StopReason.HOLD):
            self.closed = True  # the worker leaves, or the study stops: nothing more is begun
        self._drop(member)
        ending = conclude(self._context.reporter, member.attempt, error)
        self._supervisor.ended(member.attempt.key, *ending)

    def _break(self, error: BaseException) -> None:
        """End all lanes after an error that may be any trial's; that of a single one is its own."""
        members = [*self._members.values()]
        if len(members) == 1:
            self._leave(members[0], error)
            return
        for member in members:
            self._drop(member)
            self._context.reporter.flush(member.attempt)
            key = member.attempt.key
            if out_of_memory(error):
                self._supervisor.ended(key, Outcome.DRAIN, "")
            else:
                self._supervisor.ended(key, Outcome.CRASH, f"in a pack: {describe(error)}")
        if out_of_memory(error) and self._recruiter is not None:
            release_memory()
            self._recruiter.plan.shrink()
            log.warning("out of memory with %d lanes: fewer from now on", len(members))
