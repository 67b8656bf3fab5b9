"""Owns what larger models tell of a trial that seems too small: whether size is what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite, prod

from scattershot_master.diagnosis.trial_case import Case

#: A model with so many times the parameters is larger; its loss is the same between these parts.
_LARGER, _SAME = 2, (0.95, 1.1)


def at_floor(case: Case, others: Mapping[int, Case]) -> bool:
    """Return whether larger models came to the same validation loss, and none to a lower one.

    What is left of the loss is noise then, or is not in the inputs.
    """
    size, loss = _size(case), _loss(case)
    larger = [_loss(one) for one in others.values() if size and _size(one) >= _LARGER * size]
    low, high = (part * loss for part in _SAME)
    return low <= min(larger, default=inf) <= high


def _size(case: Case) -> int:
    """Return how many parameters a trial's model has; 0 where that was not recorded."""
    lines = case.layers[-1].get("parameters", ()) if case.layers else ()
    return sum(prod(one["shape"]) for one in lines)


def _loss(case: Case) -> float:
    return min(filter(isfinite, case.series("val_loss")), default=inf)
