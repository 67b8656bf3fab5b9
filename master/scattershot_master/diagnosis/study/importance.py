"""Owns the ranking of the hyperparameters by how much the metric depends on them.

A random forest learns the trials' ranks from their points; a hyperparameter matters as much as the
forest gets worse when its values are shuffled (Breiman, "Random Forests", 2001, section 10).
"""

from __future__ import annotations

import numpy as np

from scattershot.space import Space
from scattershot_master.diagnosis.case import Finding, percent
from scattershot_master.diagnosis.study.case import StudyCase

#: Trials below which a forest has nothing to go by, and the share it must explain.
_TRIALS, _EXPLAINED = 20, 0.1


def importance(study: StudyCase) -> list[Finding]:
    """Find which hyperparameters matter; nothing where the forest explains too little."""
    weights = importances(study)
    if not weights:
        return []
    shares = ", ".join(f"{name} {percent(share)}" for name, share in weights.items())
    low = [name for name, share in weights.items() if share < 0.02]
    remedy = "narrow the first ones further"
    if low:
        remedy += f"; fix {', '.join(low)}, which hardly matter here, and save trials"
    return [Finding("importance", shares, remedy, "Hyperparameter optimization")]


def importances(study: StudyCase) -> dict[str, float]:
    """Return name → share of the effect, summing to 1, the largest first; {} where none shows."""
    board = study.board
    space = Space.parse(board.study["space"])
    records = [trial for trial in board.trials.values() if trial.history]
    if len(records) < _TRIALS or not space.axes:
        return {}
    # all at the same age: the first stage's budget, or the last epoch of those that got less far
    age = (
        min(trial.history[-1]["epoch"] for trial in records if trial.state == "complete")
        if any(trial.state == "complete" for trial in records)
        else 1
    )
    values = []
    for trial in records:
        seen = [
            line.get(board.metric, np.nan) * board.sign
            for line in trial.history
            if line["epoch"] <= age
        ]
        values.append(max((one for one in seen if np.isfinite(one)), default=-np.inf))
    order = np.array(values)
    ranks = np.searchsorted(np.sort(order), order).astype(float)
    points = np.array([space.locate(trial.params) for trial in records], dtype=float)
    points = np.nan_to_num(points, nan=-1.0)  # where the parameter does not exist
    if np.ptp(ranks) == 0:
        return {}
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    forest = RandomForestRegressor(100, oob_score=True, random_state=0).fit(points, ranks)
    if forest.oob_score_ < _EXPLAINED:
        return {}
    effect = permutation_importance(forest, points, ranks, n_repeats=5, random_state=0)
    means = np.maximum(effect.importances_mean, 0)
    if not means.sum():
        return {}
    shares = {
        axis.name: float(one) for axis, one in zip(space.axes, means / means.sum(), strict=True)
    }
    return dict(sorted(shares.items(), key=lambda one: -one[1]))
