"""Deletes the checkpoints of ended trials that do not rank among the study's best."""

from __future__ import annotations

from collections.abc import Iterable

from scattershot_common.store.retention import Retention
from scattershot_common.store.store import Store
from scattershot_master.state.study_state import StudyState, TrialRecord

#: Seconds that the end of a search waits for deletions still under way in an object store.
_SETTLE = 30.0


class CheckpointCleanup:
    """Deletes the checkpoints of trials that have ended and rank below the study's best.

    Called for every trial that ends. A complete trial that a later stage may continue counts as
    active until that stage has chosen.
    """

    def __init__(self, state: StudyState, checkpoints: Store) -> None:
        """Take what holds `trials/`, and delete what an earlier master has left over."""
        self._state = state
        self._checkpoints = checkpoints
        self._best = Retention(state.settings.checkpoints.keep, state.objective)
        self._continues = {
            index: stage.continue_
            for index, stage in enumerate(state.settings.stages)
            if stage.continue_
        }
        self._candidates = Retention(max(self._continues.values(), default=0), state.objective)
        self._complete: set[int] = set()
        if state.ensemble:
            self._best.pin(member["trial"] for member in state.ensemble["members"])
        for trial in state.trials.values():
            if trial.living:
                self.active(trial)
            else:
                self.ended(trial)

    def active(self, trial: TrialRecord) -> None:
        """The trial is still, or again, to be trained."""
        self._complete.discard(trial.number)
        self._candidates.active(trial.number)
        self._checkpoints.retire(self._best.active(trial.number, trial.best_value))

    def ended(self, trial: TrialRecord) -> None:
        """The trial was killed, has failed, or is complete."""
        if trial.state == "complete" and self._may_continue():
            self._complete.add(trial.number)
            self._checkpoints.retire(self._best.active(trial.number, trial.best_value))
            released = self._candidates.ended(trial.number, trial.best_value)
        else:
            released = [trial.number]
        self._release(released)

    def stage_opened(self) -> None:
        """Release the candidates that no later stage can choose any more."""
        if not self._may_continue():
            self._release(sorted(self._complete))

    def pin(self, trials: Iterable[int]) -> None:
        """Keep the files of these trials, whatever their rank: they are an ensemble's members."""
        self._best.pin(trials)

    def _may_continue(self) -> bool:
        return any(index >= len(self._state.stages) for index in self._continues)

    def _release(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._complete.discard(number)
            self._checkpoints.retire(
                self._best.ended(number, self._state.trials[number].best_value)
            )

    def settle(self) -> None:
        """Wait for the deletions still under way; the search is over."""
        self._checkpoints.settle(_SETTLE)
