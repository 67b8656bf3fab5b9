"""Owns the rule on a loss that stays flat at first and then drops: a bad initialization."""

from __future__ import annotations

from scattershot_master.diagnosis.rules import slow
from scattershot_master.diagnosis.trial_case import Case, Rule, number

#: Flat is a loss so near to the first one, and for at least this part of the epochs.
_NEAR, _PART = 0.07, 0.15


def _look(case: Case) -> str:
    losses = case.train
    if len(losses) < 4 or case.start <= 0 or case.broken or case.left > 0.7:
        return ""
    if slow.RULE.look(case):
        return ""  # it did not drop: it is flat all along
    near = [abs(loss / case.initial - 1) < _NEAR for loss in losses]
    flat = near.index(False) if False in near else len(losses)
    if case.first is None and case.chance is None:
        flat -= 1  # epoch 1 is what it is measured by
    flat -= _warming(case, flat)
    if flat < max(1, _PART * len(losses)):
        return ""
    return (
        f"the loss stayed near {number(case.initial)} for {flat} of {len(losses)} epochs, then "
        f"fell to {number(losses[-1])}"
    )


def _warming(case: Case, epochs: int) -> int:
    """Return how many of the first epochs had less than half of the largest rate."""
    rates = case.series("lr")
    return sum(rate < 0.5 * max(rates) for rate in rates[:epochs])


RULE = Rule(
    "flat_start",
    _look,
    "a bad initialization is the first suspect: He for ReLU, Xavier for tanh, biases at zero; or "
    "batch normalization. The next is a rate that is too low",
    "Loss function; Neural Networks Part 2, Weight Initialization",
)
