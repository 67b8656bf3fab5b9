"""Rules on how a training begins: its first loss, and a loss that stays flat before it falls."""

from __future__ import annotations

from math import inf, sqrt

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.diagnosis.trial_rules.slow import SLOW
from scattershot_master.text import number

#: A loss is flat while within this part of the first one, and for at least this part of the epochs.
_NEAR, _PART = 0.07, 0.15


def _initial_loss(case: TrialCase) -> str:
    initial, chance = case.initial_loss, case.chance_loss
    if initial is None or chance is None or chance <= 0:
        return ""
    # outputs of unit variance cost half a unit more than chance does, with dropout one; the loss
    # is that of one batch, and the loss of an example has a standard deviation of about one
    scatter = 1 / sqrt(float(case.params.get("batch_size", 32)))
    low, high = 0.6 * chance - scatter, 2 * chance + 2 * scatter
    if case.squared_error:  # its scatter grows with its size, and fresh outputs cost as much again
        low, high = -inf, 8 * chance * (1 + scatter)
    if low <= initial <= high:
        return ""
    return f"the first loss was {number(initial)}; knowing nothing costs {number(chance)}"


def _flat_start(case: TrialCase) -> str:
    losses = case.train_losses
    if len(losses) < 4 or case.baseline_loss <= 0 or case.ends_diverged or case.loss_left > 0.7:
        return ""
    if SLOW.evidence(case):
        return ""  # it did not drop: it is flat all along
    near = [abs(loss / case.start_loss - 1) < _NEAR for loss in losses]
    flat = near.index(False) if False in near else len(losses)
    if case.initial_loss is None and case.chance_loss is None:
        flat -= 1  # epoch 1 is what the others are compared with
    flat -= _warmup_epochs(case, flat)
    if flat < max(1, _PART * len(losses)):
        return ""
    return (
        f"the loss stayed near {number(case.start_loss)} for {flat} of {len(losses)} epochs, then "
        f"fell to {number(losses[-1])}"
    )


def _warmup_epochs(case: TrialCase, epochs: int) -> int:
    """Return how many of the first epochs had less than half of the largest rate."""
    rates = case.series("lr")
    return sum(rate < 0.5 * max(rates) for rate in rates[:epochs])


INITIAL_LOSS = Rule(
    "initial_loss",
    _initial_loss,
    "initialize the last layer with smaller weights and its biases at zero, and normalize the "
    "inputs (and the targets, if these are numbers); `scattershot check` tells more",
    "Sanity checks Tips/Tricks",
)
FLAT_START = Rule(
    "flat_start",
    _flat_start,
    "a bad initialization is the first suspect: He for ReLU, Xavier for tanh, biases at zero; or "
    "batch normalization. The next is a rate that is too low",
    "Loss function; Neural Networks Part 2, Weight Initialization",
)
