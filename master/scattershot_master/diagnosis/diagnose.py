"""Owns the diagnosis of one trial: what the ledger and the layers' file have, put to every rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scattershot_master.diagnosis.rules import RULES
from scattershot_master.diagnosis.trial_case import Case, Finding
from scattershot_master.state.study_state import StudyState, TrialRecord


def diagnose(case: Case) -> list[Finding]:
    """Return what the rules find, in their order; nothing where all is well, or nothing known."""
    return [found for rule in RULES.values() if (found := rule.find(case))]


def case_of(
    state: StudyState, trial: TrialRecord, layers: Sequence[Mapping[str, Any]] = ()
) -> Case:
    """Return a trial as the rules see it; `layers` are the lines of its layers' file."""
    return Case(trial.history, layers, trial.params, state.metric, state.sign)
