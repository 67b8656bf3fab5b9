"""Owns `diagnose` of a whole study: what is read for it, its page and its data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from scattershot_common.store.layer_stats import LayerStats
from scattershot_master import text
from scattershot_master.diagnosis.diagnose import case_of, diagnose
from scattershot_master.diagnosis.study import STUDY_RULES
from scattershot_master.diagnosis.study.loss_floor import at_floor
from scattershot_master.diagnosis.study.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import Case, Finding
from scattershot_master.show.diagnosis_trial import lines_of, told
from scattershot_master.show.layout import Cell, Page, Table, TextLine, line, section
from scattershot_master.state.border_warnings import border_warnings
from scattershot_master.state.ranking import ranked
from scattershot_master.state.study_state import StudyState

#: Of a study's trials so many have their layers read, the best and the worst ones first.
_READ = 64
#: So many trials are named for a rule.
_NAMED = 8


def of_study(state: StudyState, folder: Path) -> StudyCase:
    """Return a study as the rules see it; raises CheckpointError where its store cannot be used.

    LayerStats in an object store are read for one trial at a time only: each costs a request.
    """
    trials = [trial for trial in ranked(state) if trial.history]
    looked = trials if len(trials) <= _READ else trials[: _READ // 2] + trials[-_READ // 2 :]
    near = (
        {} if state.store else {t.number: LayerStats.read(folder, t.number).lines for t in looked}
    )
    cases = {t.number: case_of(state, t, near.get(t.number, ())) for t in trials}
    return StudyCase(
        state, cases, {number: found_in(case, cases) for number, case in cases.items()}
    )


def found_in(case: Case, cases: Mapping[int, Case]) -> list[Finding]:
    """Return what is found in a trial, by what the others came to."""
    found = diagnose(case)
    if not any(one.rule == "underfitting" for one in found) or not at_floor(case, cases):
        return found
    return [one for one in found if one.rule != "underfitting"]


def study_findings(study: StudyCase) -> list[Finding]:
    """Return what is found in the study as a whole, the borders first."""
    borders = []
    for one in border_warnings(study.state):
        evidence, _, remedy = str(one).rpartition(": ")
        borders.append(Finding("border", evidence, remedy, "Hyperparameter optimization"))
    return borders + [found for rule in STUDY_RULES.values() for found in rule(study)]


def summary(state: StudyState, folder: Path) -> list[TextLine]:
    """Return what a run ends with: what takes no forest to find, and how to see the rest.

    Borders are left to the warnings.
    """
    study = of_study(state, folder)
    if not study.cases:
        return []
    rules = [rule for name, rule in STUDY_RULES.items() if name != "importance"]
    lines = lines_of([found for rule in rules for found in rule(study)])
    best, case = next(iter(study.cases.items()))
    first, *more = told(study.findings[best], case, not state.store)
    lines += [line(f"{_called(state, best)}: ", *first), *more]
    counted = ", ".join(f"{rule} {count}" for rule, count in _counted(study).most_common())
    of_all = f"trials with findings: {counted}; " if counted else ""
    lines.append(line(Cell(f"{of_all}all of it, and what matters: scattershot diagnose", "dim")))
    return lines


def _called(state: StudyState, best: int) -> str:
    valued = isfinite(state.trials[best].best_value)
    return f"the best trial, {best}" if valued else f"trial {best}; no trial has a value"


def _counted(study: StudyCase) -> Counter[str]:
    """Return how many trials each rule found something in."""
    return Counter(one.rule for found in study.findings.values() for one in found)


def study_page(study: StudyCase) -> Page:
    """Return the page about a study: what holds for all of it, then what its trials suffer from."""
    blocks: list[TextLine | Table] = [*_head(study)]
    blocks += section("the study", lines_of(study_findings(study)))
    if study.cases:
        best, case = next(iter(study.cases.items()))
        found = told(study.findings[best], case, not study.state.store)
        blocks += section(_called(study.state, best), found)
    for rule, _ in _counted(study).most_common():
        numbers = [n for n, found in study.findings.items() if rule in {one.rule for one in found}]
        first = next(one for one in study.findings[numbers[0]] if one.rule == rule)
        named = text.some(numbers, _NAMED)
        evidence, remedy = lines_of([first])
        blocks += section(
            f"{rule} · {text.plural(len(numbers), 'trial')}: {named}",
            [line(f"trial {numbers[0]}: ", *evidence[1:]), remedy],
        )
    return blocks


def _head(study: StudyCase) -> list[TextLine]:
    """Return how many trials there are, how many can be judged and how many are well."""
    state = study.state
    counted = f" · {text.plural(len(state.trials), 'trial')}, {len(study.cases)} with epochs"
    if study.cases:
        well = sum(not found for found in study.findings.values())
        counted += f", {well} of these without a finding"
    lines = [line(Cell(state.name, "bold"), counted)]
    if failed := len(state.by_state["failed"]):
        lines.append(line(f"{failed} failed: scattershot status says why"))
    if not state.finished:
        lines.append(line("it has not ended: what is said here is of what there is so far"))
    return lines


def study_data(study: StudyCase) -> dict[str, Any]:
    """Return the study's diagnosis as plain data."""
    return {
        "study": study.state.name,
        "finished": study.state.finished,
        "findings": [asdict(one) for one in study_findings(study)],
        "trials": [
            {"trial": number, "findings": [asdict(one) for one in found]}
            for number, found in study.findings.items()
        ],
    }
