"""Export as CSV: a row per trial, or a row per trial and epoch."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from scattershot_master.export.data import Row, history_rows, trial_rows
from scattershot_master.state.study_state import StudyState


def csv_export(state: StudyState, folder: Path, history: bool) -> bytes:
    """Return the trials, or their `history`, as CSV."""
    if history:
        text = csv_text(history_rows(state), ("trial", "epoch"))
    else:
        text = csv_text(trial_rows(state, folder))
    return text.encode()


def csv_text(rows: Sequence[Row], columns: Sequence[str] = ()) -> str:
    r"""Return rows as CSV with a header; missing values are empty, NaN is `nan`.

    >>> csv_text([{"trial": 0, "on": True, "loss": float("nan")}, {"trial": 1}])
    'trial,on,loss\n0,true,nan\n1,,\n'
    """
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: str(value).lower() if isinstance(value, bool) else value
                for name, value in row.items()
            }
        )
    return text.getvalue()
