"""Owns when a training is looked at closely: at epochs and steps that the study alone decides."""

from __future__ import annotations

#: Examples whose outputs count for the training accuracy of an epoch, at least.
SCORED = 256
#: Steps that are trained for each one whose update is observed, at least.
SPARSE = 64


def looked_at(epoch: int, budget: int) -> bool:
    """Return whether layers are recorded at `epoch`: 1, 2, 4, 8, 16, …, and the budget's last.

    >>> [epoch for epoch in range(1, 13) if looked_at(epoch, 12)]
    [1, 2, 4, 8, 12]
    """
    return epoch & (epoch - 1) == 0 or epoch == budget


def pictured(epoch: int, budget: int) -> bool:
    """Return whether a picture is taken at an epoch that is looked at: not of the first noise."""
    return epoch >= 8 or epoch == budget


def observed(epoch: int, budget: int, steps: int) -> bool:
    """Return whether the update of an epoch of so many steps is observed.

    It is a fixed cost, so that short epochs take turns; those that are looked at have it always.

    >>> [epoch for epoch in range(1, 13) if observed(epoch, 12, 20)]
    [1, 2, 4, 8, 12]
    >>> [epoch for epoch in range(1, 13) if observed(epoch, 12, 34)]
    [1, 2, 4, 6, 8, 10, 12]
    >>> all(observed(epoch, 12, 64) for epoch in range(1, 13))
    True
    """
    return epoch % -(-SPARSE // max(steps, 1)) == 0 or looked_at(epoch, budget)


def observed_step(steps: int) -> int:
    """Return the step of an epoch at which its update is observed, counted from 0.

    The last but one: its batch is full, whatever the number of examples.

    >>> observed_step(34), observed_step(1)
    (32, 0)
    """
    return max(steps - 2, 0)


def tail(size: int) -> int:
    """Return how many of an epoch's last batches of `size` count for its training accuracy.

    They have `SCORED` examples or more, though the very last one may not be full.

    >>> tail(32), tail(1000)
    (9, 2)
    """
    return -(-SCORED // size) + 1
