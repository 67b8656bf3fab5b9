"""Deletes the checkpoints of ended trials that do not rank among the study's best."""

from __future__ import annotations

from collections.abc import Iterable

from scattershot_common.store.retention import Keeper
from scattershot_common.store.store import Store
from scattershot_common.study.settings import StudyFile
from scattershot_master.state.study_state import StudyState, TrialRecord

#: Seconds that the end of a search waits for what is still to be removed from an object store.
_SETTLE = 30.0


class CheckpointCleanup:
    """Removes the checkpoints of trials that are over and rank below the study's best.

    Told of every trial that ends. A complete trial that a later stage may continue counts as
    living until that stage has chosen.
    """

    def __init__(self, state: StudyState, study: StudyFile, checkpoints: Store) -> None:
        """Take what holds `trials/`, and remove what an earlier master has left over."""
        self._state = state
        self._checkpoints = checkpoints
        self._best = Keeper(study.checkpoints.keep, state.goal)
        self._continues = {
            index: stage.continue_ for index, stage in enumerate(study.stages) if stage.continue_
        }
        self._candidates = Keeper(max(self._continues.values(), default=0), state.goal)
        self._held: set[int] = set()
        if state.ensemble:
            self._best.pin(member["trial"] for member in state.ensemble["members"])
        for trial in state.trials.values():
            if trial.living:
                self.lives(trial)
            else:
                self.ended(trial)

    def lives(self, trial: TrialRecord) -> None:
        """The trial is still, or again, to be trained."""
        self._held.discard(trial.number)
        self._candidates.lives(trial.number)
        self._remove(self._best.lives(trial.number, trial.best_value))

    def ended(self, trial: TrialRecord) -> None:
        """The trial was killed, has failed, or is complete."""
        if trial.state == "complete" and self._may_continue():
            self._held.add(trial.number)
            self._remove(self._best.lives(trial.number, trial.best_value))
            out = self._candidates.ended(trial.number, trial.best_value)
        else:
            out = [trial.number]
        self._release(out)

    def stage_opened(self) -> None:
        """Let the candidates go that no later stage can choose any more."""
        if not self._may_continue():
            self._release(sorted(self._held))

    def pin(self, trials: Iterable[int]) -> None:
        """Keep these trials' files, whatever becomes of them: they are an ensemble's members."""
        self._best.pin(trials)

    def _may_continue(self) -> bool:
        return any(index >= len(self._state.stages) for index in self._continues)

    def _release(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._held.discard(number)
            self._remove(self._best.ended(number, self._state.trials[number].best_value))

    def settle(self) -> None:
        """Wait for what is still being removed; the search is over."""
        self._checkpoints.settle(_SETTLE)

    def _remove(self, numbers: Iterable[int]) -> None:
        self._checkpoints.retire(numbers)
