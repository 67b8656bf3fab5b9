"""A study as plain data for other programs: whole, in parts, and as rows of tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scattershot_common.errors import CheckpointError
from scattershot_common.store.checkpoint_names import trial_key
from scattershot_common.trial import Value
from scattershot_master.state import progress
from scattershot_master.state.border_warnings import StageWarning, border_warnings
from scattershot_master.state.progress import ranked
from scattershot_master.state.study_state import StudyState, TrialRecord

#: A row of a table by column; rows may lack columns.
Row = Mapping[str, Value | None]


def whole_study(state: StudyState, folder: Path) -> dict[str, Any]:
    """Return the whole study, the trials best first.

    {"study", "stages", "warnings", "trials", "ensemble"}
    """
    paths = CheckpointPaths(state, folder)
    return {
        "study": study_data(state, folder),
        "stages": stage_data(state),
        "warnings": warning_data(border_warnings(state)),
        "trials": [trial_data(trial, paths) for trial in ranked(state)],
        "ensemble": state.ensemble,
    }


def study_data(state: StudyState, folder: Path) -> dict[str, Any]:
    """Return the [study] table, and the state of the study as a whole.

    `begun` is in seconds since 1970; `settings` are all the tables of the study file.
    """
    return {
        **state.settings.recorded["study"],
        "goal": state.objective.goal,
        "uid": state.uid,
        "folder": str(folder),
        "begun": state.begun,
        "finished": state.finished,
        "counts": progress.counts(state),
        "settings": state.settings.recorded,
    }


def stage_data(state: StudyState) -> list[dict[str, Any]]:
    """Return the stages of the study file in order, with those not yet opened."""
    boxes = {record.name: record.box for record in state.stages}
    return [
        {
            "name": stage.name,
            "state": "closed" if stage.closed else "open" if stage.opened else "to come",
            "epochs": stage.epochs,
            "target": stage.target,
            "done": stage.done,
            "counts": stage.counts,
            "best_value": stage.best_value,
            "best_trial": stage.best_trial,
            "notes": stage.notes,
            "box": boxes.get(stage.name),
        }
        for stage in progress.stages(state)
    ]


def warning_data(warnings: Sequence[StageWarning]) -> list[dict[str, Any]]:
    """Return the border warnings: "stage", "axis", "side", "share", "count", "of", "text"."""
    return [{"stage": warning.stage, **asdict(warning.warning)} for warning in warnings]


class CheckpointPaths:
    """The paths of the trials' best checkpoints; an object store is listed once for all trials."""

    def __init__(self, state: StudyState, folder: Path) -> None:
        """Take the study and its folder."""
        self._state, self._folder = state, folder
        self._stored: dict[str, str] | None = None

    def __call__(self, trial: TrialRecord) -> str | None:
        """Return the path from the study's folder, or the URL; None where the file is gone."""
        name = trial.best_checkpoint
        if not name:
            return None
        if self._state.store is None:
            key = trial_key(trial.number, name)
            return key if self._state.checkpoints(self._folder).exists(key) else None
        if self._stored is None:
            self._stored = self._list()
        return self._stored.get(name)

    def _list(self) -> dict[str, str]:
        try:
            store = self._state.checkpoints(self._folder)
            stored = store.all_checkpoints()
        except CheckpointError as error:  # the ledger has the rest
            print(f"scattershot: which checkpoints are kept is not known: {error}", file=sys.stderr)
            return {}
        return {
            name: store.path_of(trial_key(number, name))
            for number, names in stored.items()
            for name in names
        }


def trial_data(trial: TrialRecord, paths: CheckpointPaths) -> dict[str, Any]:
    """Return one trial.

    `epochs` is the number of epochs trained; `best_checkpoint` is relative to the study's folder or
    a URL, None where the file is gone.
    """
    return {
        "trial": trial.number,
        "stage": trial.stage,
        "state": trial.state,
        "reason": trial.reason,
        "params": trial.params,
        "seed": trial.seed,
        "attempts": trial.attempts,
        "worker": trial.worker,
        "epochs": trial.done,
        "best_value": trial.best_value,
        "best_epoch": trial.best_epoch or None,
        "best_checkpoint": paths(trial),
        "history": trial.history,
    }


def trial_rows(state: StudyState, folder: Path) -> list[Row]:
    """Return one row per trial, best first, with a column `param.lr` for each hyperparameter."""
    names = list(dict.fromkeys(name for trial in state.trials.values() for name in trial.params))
    paths = CheckpointPaths(state, folder)
    rows: list[Row] = []
    for trial in ranked(state):
        row = trial_data(trial, paths)
        for key in ("params", "history"):
            del row[key]
        rows.append(row | {f"param.{name}": trial.params.get(name) for name in names})
    return rows


def history_rows(state: StudyState) -> list[Row]:
    """Return one row per trial and epoch, by trial: "trial", "epoch" and the metrics."""
    return [
        {"trial": trial.number, **epoch} | {"trial": trial.number}  # not a metric of this name
        for trial in state.trials.values()
        for epoch in trial.history
    ]
