"""Owns a study as data for other programs: the JSON of `export`, and its CSV tables."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scattershot_common.errors import CheckpointError
from scattershot_common.store.checkpoint_names import list_all, trial_folder
from scattershot_common.trial import Value
from scattershot_master.state import progress
from scattershot_master.state.border_warnings import StageWarning, border_warnings
from scattershot_master.state.ranking import ranked
from scattershot_master.state.study_state import StudyState, TrialRecord

Row = Mapping[str, Value | None]


def export(state: StudyState, folder: Path) -> dict[str, Any]:
    """Return the whole study as plain data, the trials best first.

    {"study", "stages", "warnings", "trials", "ensemble"}; `dumps` writes it as strict JSON.
    """
    kept = Kept(state, folder)
    return {
        "study": study(state, folder),
        "stages": stages(state),
        "warnings": warnings(border_warnings(state)),
        "trials": [trial(record, kept) for record in ranked(state)],
        "ensemble": state.ensemble,
    }


def study(state: StudyState, folder: Path) -> dict[str, Any]:
    """Return the [study] table, and what the ledger says of the study as a whole.

    `begun` is in seconds since 1970; `settings` is the whole study file.
    """
    return {
        **state.settings.recorded["study"],
        "goal": state.goal,
        "uid": state.uid,
        "folder": str(folder),
        "begun": state.begun,
        "finished": state.finished,
        "counts": progress.counts(state),
        "settings": state.settings.recorded,
    }


def stages(state: StudyState) -> list[dict[str, Any]]:
    """Return the stages of the study file, in their order, those to come included."""
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


def warnings(found: Sequence[StageWarning]) -> list[dict[str, Any]]:
    """Return the border warnings: "stage", "axis", "side", "share", "count", "of", "text"."""
    return [{"stage": one.stage, **asdict(one.warning)} for one in found]


class Kept:
    """Where the trials' best checkpoints are; an object store is asked once for all of them."""

    def __init__(self, state: StudyState, folder: Path) -> None:
        """Take the study and its folder."""
        self._state, self._folder = state, folder
        self._stored: dict[str, str] | None = None

    def __call__(self, trial: TrialRecord) -> str | None:
        """Return it relative to the study's folder, as a URL, or None where it is not kept."""
        name = trial.best_checkpoint
        if not name:
            return None
        if self._state.store is None:
            path = trial_folder(self._folder, trial.number) / name
            return path.relative_to(self._folder).as_posix() if path.exists() else None
        if self._stored is None:
            self._stored = self._list()
        return self._stored.get(name)

    def _list(self) -> dict[str, str]:
        try:
            found = list_all(self._state.checkpoints(self._folder))
        except CheckpointError as error:  # the ledger alone has much to tell
            print(f"scattershot: which checkpoints are kept is not known: {error}", file=sys.stderr)
            return {}
        return {path.name: str(path) for paths in found.values() for path in paths}


def trial(record: TrialRecord, kept: Kept) -> dict[str, Any]:
    """Return one trial.

    `epochs` are those done; `best_checkpoint` is relative to the study's folder or a URL, None
    where the file is no longer kept.
    """
    return {
        "trial": record.number,
        "stage": record.stage,
        "state": record.state,
        "reason": record.reason,
        "params": record.params,
        "seed": record.seed,
        "attempts": record.attempts,
        "worker": record.worker,
        "epochs": record.done,
        "best_value": record.best_value,
        "best_epoch": record.best_epoch or None,
        "best_checkpoint": kept(record),
        "history": record.history,
    }


def dumps(data: object) -> str:
    """Return `data` as strict JSON, in which NaN and infinities are null.

    >>> dumps({"best": float("nan"), "of": (1.0, 2)})
    '{"best": null, "of": [1.0, 2]}'
    """
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(data), ensure_ascii=False, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(one) for key, one in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(one) for one in data]
    return data


def trial_rows(state: StudyState, folder: Path) -> list[Row]:
    """Return one row per trial, best first, with a column `param.lr` for each hyperparameter."""
    names = list(dict.fromkeys(n for record in state.trials.values() for n in record.params))
    rows: list[Row] = []
    kept = Kept(state, folder)
    for record in ranked(state):
        whole = trial(record, kept)
        for key in ("params", "history"):
            del whole[key]
        rows.append(whole | {f"param.{name}": record.params.get(name) for name in names})
    return rows


def history_rows(state: StudyState) -> list[Row]:
    """Return one row per trial and epoch, by trial: "trial", "epoch" and the metrics."""
    return [
        {"trial": record.number, **epoch}
        for record in state.trials.values()
        for epoch in record.history
    ]


def csv_text(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    r"""Return rows as CSV with a header; what a row lacks is empty, NaN is `nan`.

    >>> csv_text([{"trial": 0, "on": True, "loss": float("nan")}, {"trial": 1}])
    'trial,on,loss\n0,true,nan\n1,,\n'
    """
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: str(one).lower() if isinstance(one, bool) else one for key, one in row.items()}
        )
    return text.getvalue()
