"""Owns what a rule on a study sees: its trials, their findings, its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scattershot_master.diagnosis.trial_case import Case, Finding
from scattershot_master.state.study_state import StudyState


@dataclass(frozen=True)
class StudyCase:
    """A study, its trials as cases and what was found in each, by number."""

    state: StudyState
    cases: Mapping[int, Case]
    findings: Mapping[int, Sequence[Finding]]

    @property
    def hopeless(self) -> bool:
        """Whether every trial's training diverged: which of them is best says nothing."""
        found = [{one.rule for one in self.findings.get(trial, ())} for trial in self.cases]
        return bool(found) and all("diverged" in rules for rules in found)


StudyRule = Callable[[StudyCase], list[Finding]]
