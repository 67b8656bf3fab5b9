"""Owns the rule on differences between trials that noise alone explains."""

from __future__ import annotations

from scattershot_master.diagnosis.study.noise import noises
from scattershot_master.diagnosis.study.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import Finding, number
from scattershot_master.state.ranking import finite


def chance(study: StudyCase) -> list[Finding]:
    """Find how many of the best trials lie within the noise of the best value."""
    state = study.state
    values = [trial.best_value for trial in finite(state)]
    known = [] if study.hopeless else noises(study)
    if not known:
        return []
    best, noise = values[0], known[0][0]
    close = sum(abs(best - one) <= noise for one in values)
    if close < 2:
        return []
    told = "; ".join(source for _, source in known)
    return [
        Finding(
            "chance",
            f"{close} of {len(values)} trials lie within {number(noise)} of the best "
            f"{state.metric}, {number(best)}: {told}",
            "do not choose among these by this metric: take the ensemble, the cheapest one, or "
            "more validation examples; put no trust in gains smaller than that",
            "Hyperparameter optimization",
        )
    ]
