"""Owns which ended trials' checkpoints stay while the search goes on."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterable
from pathlib import Path

from scattershot_common.errors import CheckpointError
from scattershot_common.store.checkpoint_names import list_all, list_checkpoints
from scattershot_common.store.files import remove
from scattershot_common.store.location import Location
from scattershot_common.store.retention import Keeper
from scattershot_common.study.settings import StudyFile
from scattershot_master.state.study_state import StudyState, TrialRecord

#: Seconds that the end of a search waits for what is still to be removed from an object store.
_SETTLE = 30.0


class CheckpointCleanup:
    """Removes the checkpoints of trials that are over and rank below the study's best.

    Told of every trial that ends. A complete trial that a later stage may continue counts as
    living until that stage has chosen.
    """

    def __init__(self, state: StudyState, study: StudyFile, checkpoints: Location) -> None:
        """Take what holds `trials/`, and remove what an earlier master has left over."""
        self._state = state
        self._bin = _Folder(checkpoints) if isinstance(checkpoints, Path) else _Store(checkpoints)
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
        self._bin.settle()

    def _remove(self, numbers: Iterable[int]) -> None:
        self._bin.take(numbers)


# A file that cannot be removed costs space, not results: the search goes on.


class _Folder:
    """Removes trials' checkpoints from a folder, at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            with contextlib.suppress(CheckpointError, OSError):
                paths = list_checkpoints(self._folder, number)
                remove(paths)
                if paths:
                    paths[0].parent.rmdir()  # stays where a traceback lies in it

    def settle(self) -> None:
        pass


class _Store:
    """Removes trials' checkpoints from an object store, in the background: it answers slowly."""

    def __init__(self, store: Location) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="retaining", daemon=True)

    def take(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._queue.put(number)
            if not self._thread.is_alive():
                self._thread.start()

    def settle(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(_SETTLE)

    def _work(self) -> None:
        asked: set[int | None] = set()
        while None not in asked:
            asked = {self._queue.get()}
            with contextlib.suppress(queue.Empty):
                while True:
                    asked.add(self._queue.get_nowait())
            with contextlib.suppress(CheckpointError):
                there = list_all(self._store)
                remove(path for number in there.keys() & asked for path in there[number])
