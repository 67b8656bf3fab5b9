"""The rule on which hyperparameters the metric depends on, by a random forest.

The forest learns the trials' ranks from their points; a hyperparameter matters as much as the
forest gets worse when its values are shuffled (Breiman, "Random Forests", 2001, section 10).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scattershot_common.space.space import Space
from scattershot_master.diagnosis.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import Finding
from scattershot_master.text import percent

#: With fewer trials a forest learns nothing.
_MIN_TRIALS = 20
#: The part of the ranks' variance, of trials it has not seen, that the forest must explain.
_EXPLAINED = 0.1
#: Twice as many trees take twice as long and change shares by 2 points or less.
_TREES = 50
#: The largest number of trials that are shuffled: the time grows with it, the precision hardly.
_SHUFFLED = 256


def importance(study: StudyCase) -> list[Finding]:
    """Find which hyperparameters matter; nothing where the forest explains too little."""
    shares = importances(study)
    if not shares:
        return []
    space = study.state.settings.space
    evidence = ", ".join(
        f"{_label(space, name)} {percent(share)}" for name, share in shares.items()
    )
    low = [name for name, share in shares.items() if share < 0.02]
    remedy = "narrow the first ones further"
    if low:
        verb = "matters" if len(low) == 1 else "matter"
        remedy += f"; fix {', '.join(low)}, which hardly {verb} here, and save trials"
    return [Finding("importance", evidence, remedy, "Hyperparameter optimization")]


def _label(space: Space, name: str) -> str:
    """Return a name with the hyperparameters that decide whether it exists.

    To the forest they are one: a missing value reveals the condition.
    """
    searched = {axis.name for axis in space.axes}
    conditions = [parent for parent in space.when.get(name, ()) if parent in searched]
    return f"{name} (with {' and '.join(conditions)})" if conditions else name


def importances(study: StudyCase) -> dict[str, float]:
    """Return name → share of the effect, summing to 1, the largest first; {} where none shows."""
    state = study.state
    space = state.settings.space
    records = [trial for trial in state.trials.values() if trial.history]
    if len(records) < _MIN_TRIALS or len(space.axes) < 2:
        return {}
    # all at the same age: the first stage's budget, or the last epoch of those that got less far
    age = min((trial.done for trial in records if trial.state == "complete"), default=1)
    values = []
    for trial in records:
        scores = [
            state.objective.score(state.objective.of(line))
            for line in trial.history
            if line["epoch"] <= age
        ]
        values.append(max(filter(math.isfinite, scores), default=-math.inf))
    if len(set(values)) < 2:
        return {}
    points = [space.locate(trial.params) for trial in records]
    effects = _forest_shares(points, values)
    names = [axis.name for axis in space.axes][: len(effects)]
    return dict(sorted(zip(names, effects, strict=True), key=lambda item: -item[1]))


def _forest_shares(points: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Return the shares of the columns of `points` [N, D], summing to 1; [] where none has any.

    `values` [N], larger is better, may be minus infinity; NaN in `points` stands for a parameter
    that does not exist.
    """
    # over a second to import, most of the time of the command
    import numpy as np
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    order = np.array(values)
    ranks = np.searchsorted(np.sort(order), order).astype(float)
    known = np.nan_to_num(np.array(points, dtype=float), nan=-1.0)
    forest = RandomForestRegressor(_TREES, oob_score=True, random_state=0).fit(known, ranks)
    if forest.oob_score_ < _EXPLAINED:
        return []
    sample = min(len(ranks), _SHUFFLED)
    effect = permutation_importance(
        forest, known, ranks, n_repeats=5, random_state=0, max_samples=sample
    )
    means = np.maximum(effect.importances_mean, 0)
    if not means.sum():
        return []
    return [float(share) for share in means / means.sum()]
