"""`diagnose` of a whole study: its page, its data, and the summary at the end of a run."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from scattershot_master import text
from scattershot_master.diagnosis.read_cases import read_study_case
from scattershot_master.diagnosis.study_case import StudyCase
from scattershot_master.diagnosis.study_rules import STUDY_RULES, diagnose_study
from scattershot_master.show.diagnosis_trial import finding_lines, findings_or_why_none
from scattershot_master.show.layout import Cell, Page, Table, TextLine, line, section
from scattershot_master.state.study_state import StudyState

#: The number of trials that are named for a rule.
_NAMED = 8


def summary(state: StudyState, folder: Path) -> list[TextLine]:
    """Return the diagnosis at the end of a run: without the forest, which takes seconds.

    Borders are left out: they are among the warnings.
    """
    study = read_study_case(state, folder)
    if not study.cases:
        return []
    rules = [rule for name, rule in STUDY_RULES.items() if name != "importance"]
    lines = finding_lines([finding for rule in rules for finding in rule(study)])
    title, (first, *more) = _best_trial(study)
    lines += [line(f"{title}: ", *first), *more]
    counts = ", ".join(f"{rule} {count}" for rule, count in _counts(study).most_common())
    trials = f"trials with findings: {counts}; " if counts else ""
    lines.append(line(Cell(f"{trials}all of it, and what matters: scattershot diagnose", "dim")))
    return lines


def _best_trial(study: StudyCase) -> tuple[str, list[TextLine]]:
    """Return a title for the best trial, and the lines of its findings."""
    state = study.state
    number, case = next(iter(study.cases.items()))
    valued = isfinite(state.trials[number].best_value)
    title = f"the best trial, {number}" if valued else f"trial {number}; no trial has a value"
    layers_read = not state.store
    return title, findings_or_why_none(study.findings[number], case, layers_read)


def _counts(study: StudyCase) -> Counter[str]:
    """Return how many trials each rule found something in."""
    return Counter(finding.rule for findings in study.findings.values() for finding in findings)


def study_page(study: StudyCase) -> Page:
    """Return the page about a study: the findings in the whole, then those in trials by rule."""
    blocks: list[TextLine | Table] = [*_head(study)]
    blocks += section("the study", finding_lines(diagnose_study(study)))
    if study.cases:
        blocks += section(*_best_trial(study))
    for rule, _ in _counts(study).most_common():
        numbers = [number for number in study.findings if rule in study.rules(number)]
        first = next(entry for entry in study.findings[numbers[0]] if entry.rule == rule)
        names = text.first_few(numbers, _NAMED)
        evidence, remedy = finding_lines([first])
        blocks += section(
            f"{rule} · {text.plural(len(numbers), 'trial')}: {names}",
            [line(f"trial {numbers[0]}: ", *evidence[1:]), remedy],
        )
    return blocks


def _head(study: StudyCase) -> list[TextLine]:
    """Return how many trials there are, how many have epochs and how many no finding."""
    state = study.state
    counts = f" · {text.plural(len(state.trials), 'trial')}, {len(study.cases)} with epochs"
    if study.cases:
        healthy = sum(not findings for findings in study.findings.values())
        counts += f", {healthy} of these without a finding"
    lines = [line(Cell(state.name, "bold"), counts)]
    if failed := len(state.by_state["failed"]):
        lines.append(line(f"{failed} failed: scattershot status says why"))
    if not state.finished:
        lines.append(line("it has not ended: this is about what it has so far"))
    return lines


def study_data(study: StudyCase) -> dict[str, Any]:
    """Return the study's diagnosis as plain data."""
    return {
        "study": study.state.name,
        "finished": study.state.finished,
        "findings": [asdict(finding) for finding in diagnose_study(study)],
        "trials": [
            {"trial": number, "findings": [asdict(finding) for finding in findings]}
            for number, findings in study.findings.items()
        ],
    }
