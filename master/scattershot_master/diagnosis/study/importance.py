"""Owns the rule on which hyperparameters the metric depends on."""

from __future__ import annotations

import math

from scattershot_common.space.space import Space
from scattershot_master.diagnosis.study.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import Finding, percent

#: Trials below which a forest has nothing to go by.
_TRIALS = 20


def importance(study: StudyCase) -> list[Finding]:
    """Find which hyperparameters matter; nothing where the forest explains too little."""
    weights = importances(study)
    if not weights:
        return []
    space = study.state.settings.space
    shares = ", ".join(f"{_told(space, name)} {percent(one)}" for name, one in weights.items())
    low = [name for name, share in weights.items() if share < 0.02]
    remedy = "narrow the first ones further"
    if low:
        verb = "matters" if len(low) == 1 else "matter"
        remedy += f"; fix {', '.join(low)}, which hardly {verb} here, and save trials"
    return [Finding("importance", shares, remedy, "Hyperparameter optimization")]


def _told(space: Space, name: str) -> str:
    """Return a name, with what decides whether it exists: to the forest that is one and the same.

    A value that a trial lacks tells the forest the condition, too.
    """
    searched = {axis.name for axis in space.axes}
    conditions = [parent for parent in space.when.get(name, ()) if parent in searched]
    return f"{name} (with {' and '.join(conditions)})" if conditions else name


def importances(study: StudyCase) -> dict[str, float]:
    """Return name → share of the effect, summing to 1, the largest first; {} where none shows."""
    state = study.state
    space = state.settings.space
    records = [trial for trial in state.trials.values() if trial.history]
    if len(records) < _TRIALS or len(space.axes) < 2:
        return {}
    # all at the same age: the first stage's budget, or the last epoch of those that got less far
    age = min((trial.done for trial in records if trial.state == "complete"), default=1)
    values = []
    for trial in records:
        seen = [
            line.get(state.metric, math.nan) * state.sign
            for line in trial.history
            if line["epoch"] <= age
        ]
        values.append(max(filter(math.isfinite, seen), default=-math.inf))
    if len(set(values)) < 2:
        return {}
    # numpy and scikit-learn take over a second to import, most of what the command takes
    from scattershot_master.diagnosis.study.random_forest import shares

    points = [space.locate(trial.params) for trial in records]
    found = shares(points, values)
    names = [axis.name for axis in space.axes][: len(found)]
    return dict(sorted(zip(names, found, strict=True), key=lambda one: -one[1]))
