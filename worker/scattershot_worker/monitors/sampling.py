"""Owns when a training is looked at closely: at epochs and steps that the study alone decides."""

from __future__ import annotations

#: Examples whose outputs count for the training accuracy of an epoch, at least.
SCORED = 256
# Looking costs as much as some steps of a trial alone; a lane's steps are cheaper, so that it is
# looked at after more of them.

#: Steps that are trained for each one whose update is observed, at least.
SPARSE, SPARSE_IN_LANES = 64, 128
#: Steps up to the second close look; the distance doubles from look to look.
CLOSE, CLOSE_IN_LANES = 256, 1024


def looked_at(epoch: int, budget: int, steps: int, apart: int = CLOSE) -> bool:
    """Return whether layers are recorded at an epoch of so many steps.

    At the first and at the budget's last, and whenever the number of steps that were trained
    passes `apart` or that doubled, doubled again, ….

    >>> [epoch for epoch in range(1, 101) if looked_at(epoch, 100, 34)]
    [1, 8, 16, 31, 61, 100]
    >>> [epoch for epoch in range(1, 13) if looked_at(epoch, 12, 1024)]
    [1, 2, 4, 8, 12]
    """
    before, done = ((epoch - 1) * steps // apart, epoch * steps // apart)
    return epoch in (1, budget) or done.bit_length() > before.bit_length()


def pictured(epoch: int, budget: int) -> bool:
    """Return whether a picture is taken at an epoch that is looked at: not of the first noise."""
    return epoch >= 8 or epoch == budget


def observed(epoch: int, steps: int, apart: int = SPARSE) -> bool:
    """Return whether the update of an epoch of so many steps is observed, looked at or not.

    Epochs of fewer than `apart` steps take turns.

    >>> [epoch for epoch in range(1, 13) if observed(epoch, 20)]
    [4, 8, 12]
    >>> all(observed(epoch, 64) for epoch in range(1, 13))
    True
    """
    return epoch % -(-apart // max(steps, 1)) == 0


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
