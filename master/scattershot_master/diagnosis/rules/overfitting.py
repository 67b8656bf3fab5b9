"""Owns the rule on a training that knows its examples, not the task."""

from __future__ import annotations

from math import isfinite

from scattershot_master.diagnosis.case import Case, Rule, number

#: The rise of the validation loss over its least.
_RISE = 1.5


def _look(case: Case) -> str:
    if case.broken:
        return ""
    if case.apart and case.gap is not None:
        points = f"{100 * case.gap:.0f} points"
        return f"training accuracy is {points} or more above validation accuracy at the end"
    val, train = case.series("val_loss"), case.series("train_loss")
    if len(val) < 4 or len(train) < 4 or not all(map(isfinite, val)):
        return ""
    least = min(val)
    # of a loss that jumps, the last one alone may be high
    end = min(val[-max(2, len(val) // 4) :])
    fell = len(train) == len(val) and train[-1] < min(end / 3, train[val.index(least)])
    if end > _RISE * least and end - least > 0.1 * case.start and fell:
        return (
            f"the validation loss rose from {number(least)} (epoch {val.index(least) + 1}) to "
            f"{number(val[-1])} while the training loss fell to {number(train[-1])}"
        )
    return ""


RULE = Rule(
    "overfitting",
    _look,
    "regularize more (weight_decay, dropout, label_smoothing), augment, stop earlier, or get more "
    "data",
    "Train/Val accuracy",
)
