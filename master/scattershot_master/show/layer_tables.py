"""Owns how a trial's layers are shown: tables of what was seen of them last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import Any

from scattershot_master import text
from scattershot_master.diagnosis.trial_case import number, percent
from scattershot_master.show.layout import Cell, Column, Page, Table, TextLine, line

_PARAMETERS = [
    Column("parameter", long=True),
    Column("shape", extra=2),
    Column("weights", right=True),
    Column("update/weights", right=True),
    Column("mean gradient", right=True),
    Column("gradients from 1e-12 to 1e3", extra=1),
]
_ACTIVATIONS = [
    Column("activation", long=True),
    Column("kind", extra=1),
    Column("mean", right=True),
    Column("deviation", right=True),
    Column("dead", right=True),
    Column("saturated", right=True),
]


def tables(layers: Sequence[Mapping[str, Any]]) -> Page:
    """Return tables of the parameters and activations of the last line of a layers' file."""
    last = layers[-1] if layers else {}
    parameters, activations = last.get("parameters", ()), last.get("activations", ())
    page: list[TextLine | Table] = []
    if parameters or activations:
        page = [line(), line(Cell(f"layers, as seen at epoch {last.get('epoch')}", "bold"))]
    if parameters:
        page.append(Table(_PARAMETERS, [_parameter(one) for one in parameters]))
    if activations:
        if parameters:
            page.append(line())
        page.append(Table(_ACTIVATIONS, [_activation(one) for one in activations]))
    return page


def _parameter(one: Mapping[str, Any]) -> list[Cell]:
    shape = "×".join(map(str, one.get("shape", ())))
    # where there is nothing is told from where there is little
    counts = [count or nan for count in one.get("grads", ())]
    return [
        Cell(text.one_line(str(one.get("name")))),
        Cell(shape, "dim"),
        _number(one.get("weight")),
        _number(one.get("ratio")),
        _number(one.get("grad_rms")),
        Cell(text.sparkline(counts)),
    ]


def _activation(one: Mapping[str, Any]) -> list[Cell]:
    return [
        Cell(text.one_line(str(one.get("name")))),
        Cell(text.one_line(str(one.get("kind"))), "dim"),
        _number(one.get("mean")),
        _number(one.get("std")),
        _share(one.get("dead")),
        _share(one.get("saturated")),
    ]


def _number(value: float | None) -> Cell:
    return Cell(text.NOTHING if value is None else number(value))


def _share(value: float | None) -> Cell:
    if value is None or not isfinite(value):
        return Cell(text.NOTHING, "dim")
    return Cell(percent(value), "yellow" if value > 0.5 else "")
