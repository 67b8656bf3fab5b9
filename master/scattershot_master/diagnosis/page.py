"""Owns `diagnose TRIAL`: what is read for it, its page and its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scattershot.store.layers import Layers
from scattershot.store.place import Place
from scattershot_master.board import Board, TrialRecord
from scattershot_master.diagnosis.case import Finding
from scattershot_master.diagnosis.trials import case_of, diagnose
from scattershot_master.show import words
from scattershot_master.show.page import Cell, Line, Page, Sheet, line


def of_trial(board: Board, trial: TrialRecord, place: Place) -> tuple[list[Finding], Layers]:
    """Return what is found in one trial, and its layers."""
    layers = Layers.read(place, trial.number)
    return diagnose(case_of(board, trial, layers.lines)), layers


def trial_page(board: Board, trial: TrialRecord, found: Sequence[Finding], layers: Layers) -> Page:
    """Return the page about one trial."""
    seen = "" if layers.lines else "; its layers were not recorded, half of the rules see nothing"
    blocks: list[Line | Sheet] = [
        line(
            Cell(f"trial {trial.number}", "bold"),
            f" · {trial.state} · {words.plural(trial.done, 'epoch')} · study {board.name}",
        ),
        line(),
    ]
    return blocks + (lines_of(found) or [line(f"no rule has anything to say{seen}")])


def lines_of(found: Sequence[Finding]) -> list[Line]:
    """Return two lines for each finding: the evidence, and what to do."""
    lines: list[Line] = []
    for one in found:
        lines.append(line(Cell(f"{one.rule} ", "yellow"), one.evidence))
        lines.append(line("  ", Cell("→ ", "cyan"), one.remedy, Cell(f"  ({one.source})", "dim")))
    return lines


def trial_data(trial: TrialRecord, found: Sequence[Finding], layers: Layers) -> dict[str, Any]:
    """Return a trial's diagnosis as plain data, with its layers as they were recorded."""
    return {
        "trial": trial.number,
        "findings": [asdict(one) for one in found],
        "layers": layers.lines,
    }
