"""When a training is monitored: epochs and steps that follow from the study's settings alone.

Monitoring costs as much as some steps do, so it is done once in a number of steps.
"""

from __future__ import annotations

#: Examples, at least, whose outputs count for the training part's metrics of an epoch.
SCORED_EXAMPLES = 128
#: Elements, at most, of these outputs that are kept.
KEPT_ELEMENTS = 1 << 22
#: Steps that are trained, at least, for each one whose update is observed.
STEPS_PER_OBSERVATION = 128
#: Steps up to the second layer record; the distance doubles from record to record.
STEPS_PER_RECORD = 256
#: A trial of fewer epochs ends before a second record, or all of the first, would pay.
SHORT_TRIAL = 4


def is_recorded(epoch: int, budget: int, steps: int) -> bool:
    """Return whether layers are recorded at an epoch that has `steps` steps.

    At the first and at the budget's last, unless the budget is below `SHORT_TRIAL`, and whenever
    the number of steps trained passes `STEPS_PER_RECORD` or that doubled, doubled again, ….

    >>> [epoch for epoch in range(1, 101) if is_recorded(epoch, 100, 34)]
    [1, 8, 16, 31, 61, 100]
    >>> [epoch for epoch in range(1, 13) if is_recorded(epoch, 12, 1024)]
    [1, 2, 4, 8, 12]
    """
    if epoch == 1 or epoch == budget >= SHORT_TRIAL:
        return True
    before, after = (epoch - 1) * steps // STEPS_PER_RECORD, epoch * steps // STEPS_PER_RECORD
    return after.bit_length() > before.bit_length()


def records_initial_activations(epoch: int, budget: int) -> bool:
    """Return whether activations are recorded before the first step of an epoch."""
    return epoch == 1 and budget >= SHORT_TRIAL


def has_histograms(epoch: int, budget: int) -> bool:
    """Return whether an epoch's record has histograms of the gradients."""
    return epoch > 1 or budget >= SHORT_TRIAL


def has_tiles(epoch: int) -> bool:
    """Return whether an epoch's record has the first layer's tiles: not of initial noise."""
    return epoch >= 8


def is_observed(epoch: int, steps: int) -> bool:
    """Return whether an update is observed in an epoch that has `steps` steps, recorded or not.

    Of short epochs only every second, third, … is observed, so that at least
    `STEPS_PER_OBSERVATION` steps are trained for each observation.

    >>> [epoch for epoch in range(1, 13) if is_observed(epoch, 34)]
    [4, 8, 12]
    >>> all(is_observed(epoch, 128) for epoch in range(1, 13))
    True
    """
    return epoch % -(-STEPS_PER_OBSERVATION // max(steps, 1)) == 0


def observed_step(steps: int) -> int:
    """Return the step of an epoch at which its update is observed, counted from 0.

    The last but one: its batch is full, whatever the number of examples.

    >>> observed_step(34), observed_step(1)
    (32, 0)
    """
    return max(steps - 2, 0)


def scored_batches(size: int) -> int:
    """Return how many of an epoch's last batches of `size` count for its training metrics.

    They have `SCORED_EXAMPLES` examples or more, though the very last one may not be full.

    >>> scored_batches(32), scored_batches(1000)
    (5, 2)
    """
    return -(-SCORED_EXAMPLES // size) + 1


def kept_examples(size: int, elements: int) -> int:
    """Return how many examples of a batch are kept, whose outputs have `elements` elements each.

    >>> kept_examples(32, 10), kept_examples(16, 21 * 512 * 512)
    (32, 1)
    """
    return min(size, max(1, KEPT_ELEMENTS // scored_batches(size) // max(elements, 1)))
