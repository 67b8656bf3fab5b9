"""What the selection methods share: the pool of candidates and the `Selection` they return.

CS231n, "Model ensembles": members come from one search, their probabilities are averaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from scattershot_common.errors import ScattershotError
from scattershot_master.ensemble.metrics import Array, metric, score


@dataclass(frozen=True, slots=True)
class Selection:
    """An ensemble: the average of its members' predictions, each as often as it was entered.

    `members` maps trial → how often, in the order of their entry; `order` is every entry.
    `score` is the ensemble's, `scores[k - 1]` that of the first k entries tried (there may be more
    than `order` has), both in the metric's own units. `gains` maps each member to what the score
    gains by it: the score minus that without the member, turned so that positive is better; 0 for
    the only member. `notes` are sentences for the user on trials that were left out.
    """

    members: Mapping[int, int]
    order: tuple[int, ...]
    score: float
    scores: tuple[float, ...]
    gains: Mapping[int, float]
    notes: tuple[str, ...] = ()


#: Chooses members: (trial → predictions, targets, metric's name, entries) to a selection.
Method = Callable[[Mapping[int, Array], Array, str, int], Selection]


class CandidatePool:
    """The candidates with finite predictions; `trials` are the best single first, ties by number.

    Raises `ScattershotError` where there is none, where predictions and targets do not fit, and
    for a `size` below 1.
    """

    def __init__(
        self, predictions: Mapping[int, Array], targets: Array, name: str, size: int
    ) -> None:
        if size < 1:
            raise ScattershotError(f"an ensemble needs 1 member or more (found size = {size})")
        self._predictions, self._targets, self._name = predictions, targets, name
        self.objective = metric(name).objective
        singles: dict[int, float] = {}
        for trial in sorted(predictions):
            if np.isfinite(predictions[trial]).all():
                value = self.score(self.total([trial]), 1)
                if isfinite(value):
                    singles[trial] = value
        if not singles:
            raise ScattershotError(
                f"no ensemble: of {len(predictions)} trials none has finite predictions"
            )
        self.trials = sorted(singles, key=lambda trial: -self.objective.score(singles[trial]))
        self.notes = tuple(
            f"trial {trial} left out: its predictions are not finite"
            for trial in sorted(predictions)
            if trial not in singles
        )

    def __getitem__(self, trial: int) -> Array:
        return self._predictions[trial]

    def total(self, order: Sequence[int]) -> Array:
        """Return the sum of the predictions of `order`, in float64."""
        total = self[order[0]].astype(np.float64)
        for trial in order[1:]:
            total += self[trial]
        return total

    def score(self, total: Array, entries: int) -> float:
        """Return the score of the average of `entries` predictions whose sum is `total`."""
        return score(self._name, total / entries, self._targets)

    def rank(self, total: Array, entries: int) -> tuple[float, ...]:
        """Return the key by which sets of models are compared; larger is better.

        Accuracy takes few values on a small validation part and soon ties at its top; among
        equals the set with the lower loss is better: it is confident where it is right.
        """
        reached = self.objective.score(self.score(total, entries))
        if self._name != "accuracy":
            return (reached,)
        return reached, -score("loss", total / entries, self._targets)

    def select(self, order: Sequence[int], scores: Sequence[float]) -> Selection:
        """Return the selection of `order`, whose beginnings have the first of `scores`."""
        reached = scores[len(order) - 1]
        gains = {}
        for member in dict.fromkeys(order):
            rest = [trial for trial in order if trial != member]
            without = self.score(self.total(rest), len(rest)) if rest else reached
            gains[member] = self.objective.score(reached - without) + 0.0  # no -0.0
        return Selection(
            dict(Counter(order)), tuple(order), reached, tuple(scores), gains, self.notes
        )
