"""Owns `diagnose TRIAL`: what is read for it, its page and its data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scattershot_common.errors import ScattershotError
from scattershot_common.store import files
from scattershot_common.store.layer_stats import LayerStats
from scattershot_common.store.location import Location
from scattershot_master import text
from scattershot_master.diagnosis.diagnose import case_of, diagnose
from scattershot_master.diagnosis.trial_case import Case, Finding
from scattershot_master.show import layer_tables
from scattershot_master.show.layout import Cell, Page, TextLine, line
from scattershot_master.state.study_state import StudyState, TrialRecord


def of_trial(state: StudyState, trial: TrialRecord, place: Location) -> tuple[list[Finding], Case]:
    """Return what is found in one trial, and what it was found in."""
    case = case_of(state, trial, LayerStats.read(place, trial.number).lines)
    return diagnose(case), case


def trial_page(state: StudyState, trial: TrialRecord, found: Sequence[Finding], case: Case) -> Page:
    """Return the page about one trial."""
    head: list[TextLine] = [
        line(
            Cell(f"trial {trial.number}", "bold"),
            f" · {trial.state} · {text.plural(trial.done, 'epoch')} · study {state.name}",
        )
    ]
    if trial.reason:
        head.append(line(text.one_line(trial.reason)))
    if trial.state == "failed":
        head.append(line(Cell(f"its traceback: scattershot show {trial.number}", "dim")))
    return [*head, line(), *told(found, case), *layer_tables.tables(case.layers)]


def write_picture(trial: TrialRecord, case: Case, path: Path) -> None:
    """Write the picture of a trial's first weights to `path`.

    Raises:
        ScattershotError: there is none, or the file cannot be written; says why.
    """
    from scattershot_master.show.first_layer_png import picture  # numpy is needed for this only

    found = picture(case.layers)
    if found is None:
        raise ScattershotError(
            f"there is no picture of trial {trial.number}: one is taken from epoch 8 on, now and "
            "then, where the first weights look at images"
        )
    files.write(path, found, sync=False)
    print(f"wrote the first weights of trial {trial.number} to {path}", file=sys.stderr)


def told(found: Sequence[Finding], case: Case, looked: bool = True) -> list[TextLine]:
    """Return lines for what was found, or one that says so, and why little could be.

    `looked`: its layers were looked for.
    """
    missing = unseen(case, looked)
    if found:
        return lines_of(found)
    but = f"; but {', and '.join(missing)}: most rules see nothing" if missing else ""
    return [line(f"no rule has anything to say{but}")]


def unseen(case: Case, looked: bool = True) -> list[str]:
    """Return what keeps the rules from seeing anything of a trial."""
    missing = []
    if not case.history:
        return ["it has no epoch yet"]
    if len(case.history) < 4:
        missing.append(f"it has {text.plural(len(case.history), 'epoch')} only")
    if not case.train:
        missing.append("it reported no train_loss or val_loss")
    if not case.layers:
        missing.append(f"its layers were not {'recorded' if looked else 'read from the store'}")
    return missing


def lines_of(found: Sequence[Finding]) -> list[TextLine]:
    """Return two lines for each finding: the evidence, and what to do."""
    lines: list[TextLine] = []
    for one in found:
        lines.append(line(Cell(f"{one.rule} ", "yellow"), one.evidence))
        lines.append(line("  ", Cell("→ ", "cyan"), one.remedy, Cell(f"  ({one.source})", "dim")))
    return lines


def trial_data(
    state: StudyState, trial: TrialRecord, found: Sequence[Finding], case: Case
) -> dict[str, Any]:
    """Return a trial's diagnosis as plain data, with its layers as they were recorded."""
    return {
        "study": state.name,
        "trial": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "epochs": trial.done,
        "findings": [asdict(one) for one in found],
        "unseen": unseen(case),
        "layers": case.layers,
    }
