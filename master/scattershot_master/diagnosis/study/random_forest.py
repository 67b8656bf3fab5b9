"""Shares of the hyperparameters in what a random forest learns of the trials.

The forest learns the trials' ranks from their points; a hyperparameter matters as much as the
forest gets worse when its values are shuffled (Breiman, "Random Forests", 2001, section 10).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import permutation_importance

#: The part of the ranks' variance, of trials it has not seen, that the forest must explain.
_EXPLAINED = 0.1
#: Twice as many trees take twice as long and change shares by 2 points or less.
_TREES = 50
#: The largest number of trials that are shuffled: the time grows with it, the precision hardly.
_SHUFFLED = 256


def shares(points: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Return the shares of the columns of `points` [N, D], summing to 1; [] where none has any.

    `values` [N], larger is better, may be minus infinity; NaN in `points` stands for a parameter
    that does not exist.
    """
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
