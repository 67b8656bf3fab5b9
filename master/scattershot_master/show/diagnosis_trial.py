"""`diagnose TRIAL`: its page, with tables of the trial's layers, and its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite, nan
from typing import Any

from scattershot_master import text
from scattershot_master.diagnosis.trial_case import Finding, TrialCase
from scattershot_master.show.layout import Cell, Column, Page, Table, TextLine, line
from scattershot_master.state.study_state import StudyState, TrialRecord

_PARAMETER_COLUMNS = [
    Column("parameter", long=True),
    Column("shape", extra=2),
    Column("weights", right=True),
    Column("update/weights", right=True),
    Column("mean gradient", right=True),
    Column("gradients from 1e-12 to 1e3", extra=1),
]
_ACTIVATION_COLUMNS = [
    Column("activation", long=True),
    Column("kind", extra=1),
    Column("mean", right=True),
    Column("deviation", right=True),
    Column("dead", right=True),
    Column("saturated", right=True),
]


def diagnosis_page(
    state: StudyState, trial: TrialRecord, findings: Sequence[Finding], case: TrialCase
) -> Page:
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
    return [*head, line(), *findings_or_why_none(findings, case), *_layer_tables(case.layers)]


def findings_or_why_none(
    findings: Sequence[Finding], case: TrialCase, layers_read: bool = True
) -> list[TextLine]:
    """Return the lines of the findings; where there are none, one that says so and perhaps why.

    `layers_read`: whether the file of the trial's layers was looked for.
    """
    if findings:
        return finding_lines(findings)
    missing = _missing_data(case, layers_read)
    but = f"; but {', and '.join(missing)}: most rules see nothing" if missing else ""
    return [line(f"no rule has anything to say{but}")]


def finding_lines(findings: Sequence[Finding]) -> list[TextLine]:
    """Return two lines for each finding: the evidence, and what to do."""
    lines: list[TextLine] = []
    for finding in findings:
        lines.append(line(Cell(f"{finding.rule} ", "yellow"), finding.evidence))
        source = Cell(f"  ({finding.source})", "dim")
        lines.append(line("  ", Cell("→ ", "cyan"), finding.remedy, source))
    return lines


def _missing_data(case: TrialCase, layers_read: bool = True) -> list[str]:
    """Return which data of a trial the rules lack."""
    missing = []
    if not case.history:
        return ["it has no epoch yet"]
    if len(case.history) < 4:
        missing.append(f"it has {text.plural(len(case.history), 'epoch')} only")
    if not case.train_losses:
        missing.append("it reported no train_loss or val_loss")
    if not case.layers:
        missing.append(
            f"its layers were not {'recorded' if layers_read else 'read from the store'}"
        )
    return missing


def _layer_tables(layers: Sequence[Mapping[str, Any]]) -> Page:
    """Return tables of the parameters and activations in the last record of a trial's layers."""
    last = layers[-1] if layers else {}
    parameters, activations = last.get("parameters", ()), last.get("activations", ())
    page: list[TextLine | Table] = []
    if parameters or activations:
        page = [line(), line(Cell(f"layers, as seen at epoch {last.get('epoch')}", "bold"))]
    if parameters:
        page.append(Table(_PARAMETER_COLUMNS, [_parameter_row(entry) for entry in parameters]))
    if activations:
        if parameters:
            page.append(line())
        page.append(Table(_ACTIVATION_COLUMNS, [_activation_row(entry) for entry in activations]))
    return page


def _parameter_row(entry: Mapping[str, Any]) -> list[Cell]:
    shape = "×".join(map(str, entry.get("shape", ())))
    # an empty bin of the histogram is a gap, so that it differs from a low one
    counts = [count or nan for count in entry.get("grads", ())]
    return [
        Cell(text.one_line(str(entry.get("name")))),
        Cell(shape, "dim"),
        _number(entry.get("weight")),
        _number(entry.get("ratio")),
        _number(entry.get("grad_rms")),
        Cell(text.sparkline(counts)),
    ]


def _activation_row(entry: Mapping[str, Any]) -> list[Cell]:
    return [
        Cell(text.one_line(str(entry.get("name")))),
        Cell(text.one_line(str(entry.get("kind"))), "dim"),
        _number(entry.get("mean")),
        _number(entry.get("std")),
        _share(entry.get("dead")),
        _share(entry.get("saturated")),
    ]


def _number(value: float | None) -> Cell:
    return Cell(text.NOTHING if value is None else text.number(value))


def _share(value: float | None) -> Cell:
    if value is None or not isfinite(value):
        return Cell(text.NOTHING, "dim")
    return Cell(text.percent(value), "yellow" if value > 0.5 else "")


def diagnosis_data(
    state: StudyState, trial: TrialRecord, findings: Sequence[Finding], case: TrialCase
) -> dict[str, Any]:
    """Return a trial's diagnosis as plain data, with its layers as they were recorded."""
    return {
        "study": state.name,
        "trial": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "epochs": trial.done,
        "findings": [asdict(finding) for finding in findings],
        "unseen": _missing_data(case),
        "layers": case.layers,
    }
