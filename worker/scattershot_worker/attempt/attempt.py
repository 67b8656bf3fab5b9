"""One worker's attempt at a trial: what was claimed, how far it has come, whether it must stop."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property

from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_spec import AttemptKey, TrialSpec
from scattershot_common.bus.trial_state import Claim, TrialStates
from scattershot_common.errors import StoreUnreachable
from scattershot_common.objective import Objective
from scattershot_common.store.store import Store

#: Checkpoints of one attempt that may wait to be written before training waits too.
_UNWRITTEN = 4


class TrialStopped(BaseException):
    """Unwinds a training loop. Not an `Exception`, so that a user's `except` lets it pass."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class StopSignal:
    """Whether an attempt must stop, and why (the first reason stays); and that it makes progress.

    Set by the thread that listens to the supervisor and by the one that reports; a plain
    attribute, since reading it has to cost nothing.
    """

    def __init__(self) -> None:
        self.stop: StopReason | None = None
        #: What went wrong in the background (a full disk); raised in the training loop.
        self.error: Exception | None = None
        #: Grows with every check and every report: a training that hangs does neither.
        self.progress = 0

    def set(self, reason: StopReason) -> None:
        """Ask for a stop."""
        if self.stop is None:
            self.stop = reason

    def check(self) -> None:
        """Raise `TrialStopped`, or the background's error, if there is one."""
        self.progress += 1
        if self.error is not None:
            raise self.error
        if self.stop is not None:
            raise TrialStopped(self.stop)


@dataclass(eq=False)
class Attempt:
    """One worker's attempt at a trial that it has claimed."""

    spec: TrialSpec
    #: Of the trial's attempts, counted from 1.
    number: int
    info: StudyInfo
    claim: Claim
    states: TrialStates
    #: What holds `trials/` of its study.
    checkpoints: Store
    signals: StopSignal
    #: File names of this trial's checkpoints.
    files: set[str] = field(default_factory=set)
    #: The metric of every epoch that Redis has accepted.
    accepted: dict[int, float] = field(default_factory=dict)
    #: Why it is complete before its budget is used up; "" unless it is.
    early: str = ""
    #: Limits what a crash may cost: further epochs wait until those before are on the disk.
    unwritten: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_UNWRITTEN))

    @property
    def trial(self) -> int:
        """The number of its trial."""
        return self.spec.trial

    @property
    def key(self) -> AttemptKey:
        """What names it, between supervisor and child."""
        return self.spec.study, self.spec.trial, self.number

    @cached_property
    def objective(self) -> Objective:
        """What its study ranks trials by."""
        return self.info.objective

    @property
    def last_chance(self) -> bool:
        """Whether the trial fails if this attempt does."""
        return self.claim.failures + 1 >= self.info.max_failures

    @property
    def unsaved(self) -> bool:
        """Whether only a store that does not answer is in its way: another attempt may succeed."""
        return isinstance(self.signals.error, StoreUnreachable)
