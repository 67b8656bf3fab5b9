"""Owns what the recipe reads off the curves of the best trials: train longer, regularize, enlarge.

Notes: "Babysitting the learning process" in neural-networks-3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

#: How many of the best are looked at; more than half of them must agree.
BEST = 5
#: The validation loss has turned when its end is this much over its least.
_TURNED = 1.1
#: No gap: the validation loss at the end over the training loss.
_GAP = 1.1

History = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Reading:
    """What the curves say, and for how many epochs to train from here on."""

    epochs: int
    found: tuple[str, ...]
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
    turned = sum(_overfits(one) for one in whole)
    level = sum(_no_gap(one) for one in whole)
    found = []
    factor, decision = 2, "The best come with some epochs to spare: train a little longer."
    if improving > count / 2:
        found.append(f"{improving} of {count} are at their best in the last epoch")
        factor, decision = 3, "They still improve at the end: train longer."
    elif early > count / 2:
        found.append(f"{early} of {count} are at their best in the first half")
        factor, decision = 1, "They have nothing more to gain: train no longer."
    if turned > count / 2:
        found.append(
            f"{turned} of {count} overfit: the validation loss rises from its least while the "
            "training loss falls; more dropout, weight decay or data would help"
        )
    elif level > count / 2 and improving <= count / 2:
        found.append(
            f"{level} of {count} have no gap between training and validation loss: a larger "
            "network could gain"
        )
    if not found:
        found.append(f"the best epochs of the {count} best lie between half and the end")
    return Reading(max(epochs * factor, 2), tuple(found), decision)


def _best_epoch(history: History, metric: str, sign: int) -> float:
    values = {
        line["epoch"]: sign * line[metric]
        for line in history
        if math.isfinite(line.get(metric, math.nan))
    }
    return max(values, key=lambda epoch: (values[epoch], -epoch), default=0.0)


def _losses(history: History, name: str) -> list[float]:
    return [line[name] for line in history if math.isfinite(line.get(name, math.nan))]


def _overfits(history: History) -> bool:
    val, train = _losses(history, "val_loss"), _losses(history, "train_loss")
    if len(val) < 3 or len(train) < 3 or min(val) <= 0:
        return False
    return val[-1] > _TURNED * min(val) and train[-1] < train[val.index(min(val))]


def _no_gap(history: History) -> bool:
    val, train = _losses(history, "val_loss"), _losses(history, "train_loss")
    return bool(val and train) and train[-1] > 0 and val[-1] / train[-1] < _GAP
