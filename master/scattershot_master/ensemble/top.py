"""The plain ensemble: the best single models, each once."""

from __future__ import annotations

from collections.abc import Mapping

from scattershot_master.ensemble.metrics import Array
from scattershot_master.ensemble.selection import CandidatePool, Selection


def top(predictions: Mapping[int, Array], targets: Array, metric: str, size: int) -> Selection:
    """Average the `size` best single models (CS231n, "Model ensembles": top models of the search).

    `predictions` maps trial → its predictions on the validation part, `targets` belong to all;
    shapes and errors as in `metrics.score`.

    >>> import numpy as np
    >>> sure, wrong = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.1, 0.9], [0.6, 0.4]])
    >>> top({4: wrong, 7: sure}, np.array([0, 1]), "accuracy", 1).members
    {7: 1}
    """
    pool = CandidatePool(predictions, targets, metric, size)
    order = pool.trials[:size]
    scores = [pool.score(pool.total(order[:k]), k) for k in range(1, len(order) + 1)]
    return pool.select(order, scores)
