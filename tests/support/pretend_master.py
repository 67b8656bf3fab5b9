"""A master that tests run and observe, for a study of simulated workers."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scattershot_common.bus.study_info import info_of
from scattershot_common.bus.workers import Heartbeat
from scattershot_common.study.settings import StudyFile
from scattershot_master.search.observer import Observer, Observers
from scattershot_master.search.open_study import open_study
from scattershot_master.search.redis_study import RedisStudy
from scattershot_master.search.search import Search
from scattershot_master.state.study_state import StudyState

SPACE: dict[str, object] = {
    "lr": {"loguniform": [1e-5, 1.0]},
    "dropout": {"uniform": [0.0, 0.6]},
    "units": {"choice": [16, 32, 64]},
}
STAGES: tuple[dict[str, object], ...] = (
    {"name": "coarse", "trials": 10, "epochs": 4},
    {"name": "fine", "trials": 6, "epochs": 5, "refine": 0.4},
    {"name": "final", "continue": 3, "epochs": 8},
)


def study_file(**tables: Any) -> StudyFile:
    """Return a study of three stages under sync_halving; `tables` stand in for its own."""
    whole: dict[str, Any] = {
        "study": {"name": "pretended", "task": "digits"},
        "space": SPACE,
        "stage": [*STAGES],
        "kill": {"rule": "sync_halving"},
    }
    return StudyFile.model_validate({**whole, **tables})


class Failed(BaseException):
    """A test's own failure inside a search: an observer's Exception only drops the observer."""


class Watcher(Observer):
    """Keeps the notes, calls `look` at every turn, and ends a search that hangs."""

    in_loop = True

    def __init__(
        self, look: Callable[[StudyState], None] | None = None, seconds: float = 60.0
    ) -> None:
        self.notes: list[str] = []
        self.look = look or (lambda state: None)
        self._end = time.monotonic() + seconds

    def tick(self, state: StudyState, workers: Sequence[Heartbeat], *, rate: float | None) -> None:
        if time.monotonic() > self._end:
            counts = {
                trial_state: sorted(numbers) for trial_state, numbers in state.by_state.items()
            }
            raise Failed(f"the search hangs: {counts}, {self.notes[-5:]}")
        try:
            self.look(state)
        except Exception as error:
            raise Failed(repr(error)) from error

    def note(self, text: str, *, routine: bool = False) -> None:
        self.notes.append(text)


class Master:
    """One master of `study` under `root`, as the commands set it up."""

    def __init__(
        self,
        url: str,
        root: Path,
        study: StudyFile,
        view: Watcher | None = None,
        *,
        take_over: bool = False,
        workers_gone: bool = False,
        observers: Sequence[Observer] = (),
        keep_alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.view = view or Watcher()
        text = f'[study]\nname = "{study.study.name}"\n'
        self.study, self.ledger = open_study(study, text, root, fresh=False)
        try:
            self.redis_study = RedisStudy(url, info_of(self.state.settings, self.state.uid, None))
            self.redis_study.take(by_force=take_over or workers_gone)
            self.search = Search(
                self.ledger, self.redis_study, Observers([self.view, *observers]), keep_alive
            )
        except BaseException:
            self.ledger.close()
            raise
        self._gone = workers_gone

    @property
    def state(self) -> StudyState:
        return self.ledger.state

    def run(self) -> bool:
        """Run the search; whatever happens, leave as the commands do."""
        try:
            return self.search.run(workers_gone=self._gone)
        finally:
            try:
                self.redis_study.release()
            finally:
                self.ledger.close()


def table(state: StudyState) -> list[str]:
    """Return what a study came to, one line per trial; what depends on timing is left out."""
    lines = []
    for trial in sorted(state.trials.values(), key=lambda trial: trial.number):
        about = (
            trial.number,
            trial.stage,
            trial.state,
            trial.params,
            trial.seed,
            trial.epochs,
            trial.until,
        )
        reason = trial.reason if trial.state in ("killed", "failed") else ""
        best = (trial.best_value, trial.best_epoch, trial.best_checkpoint)
        lines.append(json.dumps([*about, reason, *best, trial.history]))
    return lines


def image(state: StudyState) -> str:
    """Return all that a study's state holds, as text: NaN is like NaN."""
    return json.dumps(dataclasses.asdict(state), default=sorted, sort_keys=True)
