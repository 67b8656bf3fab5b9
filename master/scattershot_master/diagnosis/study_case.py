"""What a rule on a study sees: its state, its trials as cases and the findings in each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from scattershot_master.diagnosis.trial_case import Finding, TrialCase
from scattershot_master.state.study_state import StudyState


@dataclass(frozen=True)
class StudyCase:
    """A study, its trials as cases and the findings in each, by trial number."""

    state: StudyState
    cases: Mapping[int, TrialCase]
    findings: Mapping[int, Sequence[Finding]]

    def rules(self, trial: int) -> set[str]:
        """Return the names of the rules that found something in a trial."""
        return {finding.rule for finding in self.findings.get(trial, ())}

    @property
    def all_diverged(self) -> bool:
        """Whether every trial's training diverged: which of them is best says nothing."""
        return bool(self.cases) and all("diverged" in self.rules(trial) for trial in self.cases)


StudyRule = Callable[[StudyCase], list[Finding]]
