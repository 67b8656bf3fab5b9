"""The ranking of trials: best value first, NaN never above a number, ties by number."""

from __future__ import annotations

import math
from collections.abc import Iterable

from scattershot_master.state.study_state import StudyState, TrialRecord


def ranked(state: StudyState, trials: Iterable[TrialRecord] | None = None) -> list[TrialRecord]:
    """Return trials best first; those without a finite value come last, by number."""
    score = state.objective.score

    def key(trial: TrialRecord) -> tuple[float, int]:
        value = trial.best_value
        return (-score(value) if math.isfinite(value) else math.inf, trial.number)

    return sorted(state.trials.values() if trials is None else trials, key=key)


def finite(state: StudyState, trials: Iterable[TrialRecord] | None = None) -> list[TrialRecord]:
    """Return the trials that have a finite value, best first."""
    return [trial for trial in ranked(state, trials) if math.isfinite(trial.best_value)]
