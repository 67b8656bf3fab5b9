"""Owns for how long to train, as the recipe reads it off the curves of the best trials.

What else is wrong with them is the diagnosis' to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: How many of the best are looked at; more than half of them must agree.
BEST = 5

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Reading:
    """What the curves say, and for how many epochs to train from here on."""

    epochs: int
    found: str
    decision: str


def read(histories: Sequence[History], metric: str, sign: int, epochs: int) -> Reading:
    """Read the curves of the best trials, `epochs` long; `sign` is -1 where less is better.

    >>> history = [{"epoch": i, "val_accuracy": i / 10} for i in (1, 2, 3, 4)]
    >>> read([history], "val_accuracy", 1, 4).epochs
    12
    """
    whole = [history for history in histories[:BEST] if len(history) >= epochs] or [*histories[:1]]
    count = len(whole)
    improving = sum(_best_epoch(one, metric, sign) > 0.9 * len(one) for one in whole)
    early = sum(_best_epoch(one, metric, sign) <= 0.5 * len(one) for one in whole)
    if improving > count / 2:
        found = f"{improving} of the {count} best are at their best in the last epoch"
        return Reading(epochs * 3, found, "They still improve at the end: train longer.")
    if early > count / 2:
        found = f"{early} of the {count} best are at their best in the first half"
        return Reading(max(epochs, 2), found, "They have nothing more to gain: train no longer.")
    found = f"the best epochs of the {count} best lie between half and the end"
    return Reading(epochs * 2, found, "The best came late: train a little longer.")


def _best_epoch(history: History, metric: str, sign: int) -> float:
    values = {
        line["epoch"]: sign * line[metric]
        for line in history
        if math.isfinite(line.get(metric, math.nan))
    }
    return max(values, key=lambda epoch: (values[epoch], -epoch), default=0.0)
