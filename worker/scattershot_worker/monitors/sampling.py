"""Owns when a training is looked at closely: at epochs and steps that the study alone decides."""

from __future__ import annotations

#: Examples whose outputs count for the training part's metrics of an epoch, at least; and elements
#: of these outputs that are kept, at most.
SCORED, KEPT = 128, 1 << 22
# Looking costs as much as some steps do: it is done after so many of them.

#: Steps that are trained for each one whose update is observed, at least.
SPARSE = 128
#: Steps up to the second close look; the distance doubles from look to look.
CLOSE = 256
#: A trial of fewer epochs is over before more than a glance at its first one pays.
SHORT = 4


def looked_at(epoch: int, budget: int, steps: int) -> bool:
    """Return whether layers are recorded at an epoch of so many steps.

    At the first and at the budget's last, unless that is `SHORT`, and whenever the number of steps
    that were trained passes `CLOSE` or that doubled, doubled again, ….

    >>> [epoch for epoch in range(1, 101) if looked_at(epoch, 100, 34)]
    [1, 8, 16, 31, 61, 100]
    >>> [epoch for epoch in range(1, 13) if looked_at(epoch, 12, 1024)]
    [1, 2, 4, 8, 12]
    """
    if epoch == 1 or epoch == budget >= SHORT:
        return True
    before, done = ((epoch - 1) * steps // CLOSE, epoch * steps // CLOSE)
    return done.bit_length() > before.bit_length()


def looked_at_before(epoch: int, budget: int) -> bool:
    """Return whether activations are recorded before the first step of an epoch."""
    return epoch == 1 and budget >= SHORT


def counted(epoch: int, budget: int) -> bool:
    """Return whether an epoch that is looked at has histograms of its gradients."""
    return epoch > 1 or budget >= SHORT


def pictured(epoch: int) -> bool:
    """Return whether a picture is taken at an epoch that is looked at: not of the first noise."""
    return epoch >= 8


def observed(epoch: int, steps: int) -> bool:
    """Return whether the update of an epoch of so many steps is observed, looked at or not.

    Epochs of fewer than `SPARSE` steps take turns.

    >>> [epoch for epoch in range(1, 13) if observed(epoch, 34)]
    [4, 8, 12]
    >>> all(observed(epoch, 128) for epoch in range(1, 13))
    True
    """
    return epoch % -(-SPARSE // max(steps, 1)) == 0


def observed_step(steps: int) -> int:
    """Return the step of an epoch at which its update is observed, counted from 0.

    The last but one: its batch is full, whatever the number of examples.

    >>> observed_step(34), observed_step(1)
    (32, 0)
    """
    return max(steps - 2, 0)


def tail(size: int) -> int:
    """Return how many of an epoch's last batches of `size` count for its training metrics.

    They have `SCORED` examples or more, though the very last one may not be full.

    >>> tail(32), tail(1000)
    (5, 2)
    """
    return -(-SCORED // size) + 1


def kept(size: int, elements: int) -> int:
    """Return how many examples of a batch are kept, whose outputs have so many elements each.

    >>> kept(32, 10), kept(16, 21 * 512 * 512)
    (32, 1)
    """
    return min(size, max(1, KEPT // tail(size) // max(elements, 1)))
