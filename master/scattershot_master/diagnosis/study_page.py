"""Owns `diagnose` of a whole study: what is read for it, its page and its data."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scattershot.store.layers import Layers
from scattershot_master.board import Board
from scattershot_master.diagnosis.case import Finding
from scattershot_master.diagnosis.page import lines_of
from scattershot_master.diagnosis.study import STUDY_RULES
from scattershot_master.diagnosis.study.case import StudyCase
from scattershot_master.diagnosis.trials import case_of, diagnose
from scattershot_master.ranking import ranked
from scattershot_master.show import words
from scattershot_master.show.page import Cell, Line, Page, Sheet, line, section
from scattershot_master.show.warnings import border_warnings

#: Of a study's trials so many have their layers read, the best and the worst ones first.
_READ = 64
#: So many trials are named for a rule.
_NAMED = 8


def of_study(board: Board, folder: Path) -> StudyCase:
    """Return a study as the rules see it; raises CheckpointError where its store cannot be used.

    Layers in an object store are read for one trial at a time only: each costs a request.
    """
    trials = [trial for trial in ranked(board) if trial.history]
    looked = trials if len(trials) <= _READ else trials[: _READ // 2] + trials[-_READ // 2 :]
    near = {} if board.store else {t.number: Layers.read(folder, t.number).lines for t in looked}
    cases = {t.number: case_of(board, t, near.get(t.number, ())) for t in trials}
    return StudyCase(board, cases, {number: diagnose(case) for number, case in cases.items()})


def study_findings(study: StudyCase) -> list[Finding]:
    """Return what is found in the study as a whole, the borders first."""
    borders = []
    for one in border_warnings(study.board):
        evidence, _, remedy = str(one).rpartition(": ")
        borders.append(Finding("border", evidence, remedy, "Hyperparameter optimization"))
    return borders + [found for rule in STUDY_RULES.values() for found in rule(study)]


def study_page(study: StudyCase) -> Page:
    """Return the page about a study: what holds for all of it, then what its trials suffer from."""
    board = study.board
    rules = Counter(one.rule for found in study.findings.values() for one in found)
    whole = study_findings(study)
    blocks: list[Line | Sheet] = [
        line(
            Cell(board.name, "bold"),
            f" · {words.plural(len(study.cases), 'trial')} with epochs, "
            f"{sum(not found for found in study.findings.values())} without a finding",
        )
    ]
    blocks += section("the study", lines_of(whole))
    best = next(iter(study.cases), None)
    if best is not None:
        told = lines_of(study.findings[best]) or [line("nothing is wrong with it")]
        blocks += section(f"the best trial, {best}", told)
    for rule, _ in rules.most_common():
        numbers = [n for n, found in study.findings.items() if rule in {one.rule for one in found}]
        first = next(one for one in study.findings[numbers[0]] if one.rule == rule)
        named = ", ".join(map(str, numbers[:_NAMED])) + (", …" if len(numbers) > _NAMED else "")
        blocks += section(
            f"{rule} · {words.plural(len(numbers), 'trial')}: {named}",
            [line(f"trial {numbers[0]}: {first.evidence}"), line(Cell("→ ", "cyan"), first.remedy)],
        )
    return blocks


def study_data(study: StudyCase) -> dict[str, Any]:
    """Return the study's diagnosis as plain data."""
    return {
        "study": study.board.name,
        "findings": [asdict(one) for one in study_findings(study)],
        "trials": [
            {"trial": number, "findings": [asdict(one) for one in found]}
            for number, found in study.findings.items()
        ],
    }
