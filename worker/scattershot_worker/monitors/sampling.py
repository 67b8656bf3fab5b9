"""Owns when a training is looked at closely: at epochs and steps that the study alone decides."""

from __future__ import annotations

#: Examples whose outputs count for the training accuracy of an epoch, at least.
SCORED = 256


def looked_at(epoch: int, budget: int) -> bool:
    """Return whether layers are recorded at `epoch`: 1, 2, 4, 8, 16, …, and the budget's last.

    >>> [epoch for epoch in range(1, 13) if looked_at(epoch, 12)]
    [1, 2, 4, 8, 12]
    """
    return epoch & (epoch - 1) == 0 or epoch == budget


def pictured(epoch: int, budget: int) -> bool:
    """Return whether a picture is taken at an epoch that is looked at: not of the first noise."""
    return epoch >= 8 or epoch == budget


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
