"""Owns the rule on a training that knows its examples, not the task."""

from __future__ import annotations

from math import isfinite
from statistics import fmean

from scattershot_master.diagnosis.trial_case import Case, Rule, number

#: The rise of the validation loss over its least.
_RISE = 1.5
#: Points, as a part of 1, without which a higher loss is but too much confidence.
_POINTS = 0.06


def _look(case: Case) -> str:
    if case.broken:
        return ""
    if case.gap is not None and case.gap.wide:
        points = f"{100 * case.gap.least:.0f} points"
        return f"{case.gap.name} is {points} or more better on the training part at the end"
    return _risen(case) or _apart(case)


def _risen(case: Case) -> str:
    """Return how the validation loss rose while the training loss fell, if it did."""
    val, train = case.series("val_loss"), case.series("train_loss")
    if len(val) < 4 or len(train) < 4 or not all(map(isfinite, val)):
        return ""
    least = min(val)
    # of a loss that jumps, the last one alone may be high
    end = min(val[-max(2, len(val) // 4) :])
    fell = len(train) == len(val) and train[-1] < min(end / 3, train[val.index(least)])
    if end > _RISE * least and end - least > 0.1 * case.scale and fell:
        return (
            f"the validation loss rose from {number(least)} (epoch {val.index(least) + 1}) to "
            f"{number(val[-1])} while the training loss fell to {number(train[-1])}"
        )
    return ""


def _apart(case: Case) -> str:
    """Return how far the losses are apart, if so far that it costs right answers."""
    if not case.apart or (case.gap is not None and case.gap.least < _POINTS):
        return ""
    train, val = map(fmean, case.last_losses)
    return (
        f"the validation loss is {number(val)} at the end, the training loss {number(train)}: "
        f"{number(val / train)} times less"
    )


RULE = Rule(
    "overfitting",
    _look,
    "regularize more (weight_decay, dropout, label_smoothing), augment, stop earlier, or get more "
    "data",
    "Train/Val accuracy",
)
