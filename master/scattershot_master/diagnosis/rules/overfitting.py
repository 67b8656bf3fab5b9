"""Owns the rule on a training that knows its examples, not the task."""

from __future__ import annotations

from math import isfinite

from scattershot_master.diagnosis.case import Case, Rule, number, percent

#: The gap between the accuracies, and the rise of the validation loss over its least.
_GAP, _RISE = 0.08, 1.5


def _look(case: Case) -> str:
    if case.broken:
        return ""
    if case.gap is not None and case.gap > _GAP:
        return f"training accuracy is {percent(case.gap)} above validation accuracy"
    val, train = case.series("val_loss"), case.series("train_loss")
    if len(val) < 4 or len(train) < 4 or not all(map(isfinite, val)):
        return ""
    least = min(val)
    if val[-1] > _RISE * least and val[-1] - least > 0.1 * case.start and train[-1] < val[-1] / 3:
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
