"""Owns the rule on a model that cannot even fit what it is trained on."""

from __future__ import annotations

from scattershot_master.diagnosis.case import Case, Rule, percent


def _look(case: Case) -> str:
    if len(case.train) < 6 or case.broken or case.left < 0.25 or case.gain > 0.1:
        return ""
    if case.early < 0.05:
        return ""  # it has not learned at all: the rate or the initialization, not the size
    val, train = case.series("val_loss"), case.series("train_loss")
    apart = val[-1] > 1.25 * train[-1] if val and train else False
    if apart or (case.gap is not None and case.gap > 0.05):
        return ""
    falling = len(case.train) > 1 and case.train[-2] - case.train[-1] > 0.01 * case.start
    if falling or (case.ratio is not None and not 3e-4 <= case.ratio <= 1e-2):
        return ""
    gap = "" if case.gap is None else f", {percent(max(case.gap, 0))} between the accuracies"
    return f"{percent(case.left)} of the starting loss is left on the training part itself{gap}"


RULE = Rule(
    "underfitting",
    _look,
    "enlarge the model (more units or layers), regularize less",
    "Train/Val accuracy",
)
