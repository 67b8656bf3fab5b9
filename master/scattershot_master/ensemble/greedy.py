"""Greedy ensemble selection: models enter one by one, each time the one that helps most.

Caruana, Niculescu-Mizil, Crew, Ksikes 2004, "Ensemble Selection from Libraries of Models": with
replacement (a good model may enter again, so members are weighted), sorted initialization (the
greedy steps begin with the best few, so that they overfit the validation part less).
"""

from __future__ import annotations

from collections.abc import Mapping

from scattershot_master.ensemble.metrics import Array
from scattershot_master.ensemble.selection import CandidatePool, Selection


def greedy(
    predictions: Mapping[int, Array], targets: Array, metric: str, size: int, start: int = 3
) -> Selection:
    """Return the best set found in `size` entries, so never worse than the best single model.

    `predictions` maps trial → its predictions on the validation part, `targets` belong to all;
    shapes and errors as in `metrics.score`. The first entries are the best single models, as many
    (up to `start`) as score best together. Then, up to `size` entries in all, the model that gives
    the best score enters; equal accuracies are told apart by the loss, further ties go to the
    better single model, then to the lower number. Of sets that rank equal the smallest is returned.

    >>> import numpy as np
    >>> left = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])  # right, right, wrong
    >>> right = np.array([[0.2, 0.8], [0.6, 0.4], [0.9, 0.1]])  # wrong, right, right
    >>> both = greedy({0: left, 1: right}, np.array([0, 0, 0]), "accuracy", 4)
    >>> sorted(both.members), both.score, both.scores[0]
    ([0, 1], 1.0, 0.6666666666666666)
    """
    pool = CandidatePool(predictions, targets, metric, size)
    order = pool.trials[: min(start, size)]
    ranks = [pool.rank(pool.total(order[:k]), k) for k in range(1, len(order) + 1)]
    del order[_best(ranks) + 1 :], ranks[len(order) :]

    total = pool.total(order)
    while len(order) < size:
        candidates = [pool.rank(total + pool[trial], len(order) + 1) for trial in pool.trials]
        chosen = _best(candidates)
        order.append(pool.trials[chosen])
        ranks.append(candidates[chosen])
        total += pool[order[-1]]
    scores = [pool.objective.score(rank[0]) for rank in ranks]
    return pool.select(order[: _best(ranks) + 1], scores)


def _best(ranks: list[tuple[float, ...]]) -> int:
    """Return the index of the best rank, the first of equals."""
    return max(range(len(ranks)), key=ranks.__getitem__)
