"""One worker's attempt at a trial: what was claimed, and how far it has come."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property

from scattershot_common.bus.queue import TrialSpec
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_state import Claim, TrialStates
from scattershot_common.errors import StoreUnreachable
from scattershot_common.objective import Objective
from scattershot_common.store.checkpoint_names import trial_folder
from scattershot_common.store.location import Location
from scattershot_worker.attempt.stop_signal import StopSignal

#: Checkpoints of one attempt that may wait to be written before training waits too.
_UNWRITTEN = 4

#: Study, trial and number of an attempt.
Key = tuple[str, int, int]


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
    checkpoints: Location
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
    def key(self) -> Key:
        """What names it, between supervisor and child."""
        return self.spec.study, self.spec.trial, self.number

    @cached_property
    def objective(self) -> Objective:
        """What its study ranks trials by."""
        return self.info.objective

    @cached_property
    def folder(self) -> Location:
        """What holds its checkpoints."""
        return trial_folder(self.checkpoints, self.trial)

    @property
    def last_chance(self) -> bool:
        """Whether the trial fails if this attempt does."""
        return self.claim.failures + 1 >= self.info.max_failures

    @property
    def unsaved(self) -> bool:
        """Whether only a store that does not answer is in its way: another attempt may succeed."""
        return isinstance(self.signals.error, StoreUnreachable)
