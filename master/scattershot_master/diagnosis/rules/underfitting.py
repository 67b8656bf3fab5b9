"""Owns the rule on a model that cannot even fit what it is trained on."""

from __future__ import annotations

from statistics import fmean

from scattershot_master.diagnosis.rules import (
    dead_relus,
    early_decay,
    plateau,
    slow,
)
from scattershot_master.diagnosis.trial_case import Case, Rule, percent

#: The part of the starting loss that only a model which is too small leaves. Where two classes
#: overlap half is left; of a squared error half is the rule if targets are measured, not made.
_LEFT, _LEFT_OF_SQUARES = 0.4, 0.7
#: So many wrong answers are no overlap.
_WRONG = 1 / 3


def _look(case: Case) -> str:
    least = _LEFT_OF_SQUARES if case.squared else _LEFT
    if len(case.train) < 6 or case.broken or case.left < least or case.gain > 0.1:
        return ""
    if case.early < 0.05 or case.left > 0.9:
        return ""  # it has not learned at all: the rate or the initialization, not the size
    hidden = plateau, dead_relus, slow, early_decay
    if case.kept_up or any(one.RULE.look(case) for one in hidden):
        return ""  # it is not the size that keeps it from fitting more
    train, val = case.last_losses
    if val and fmean(val) > 1.25 * fmean(train):
        return ""
    if case.gap is not None:
        wrong = 1 - fmean(case.gap.train)
        if wrong < _WRONG or case.gap.least > max(0.05, 0.15 * wrong):
            return ""
    if case.slope > 0.01 or (case.ratio is not None and not 3e-4 <= case.ratio <= 1e-2):
        return ""
    gap = "" if case.gap is None else f", {percent(max(case.gap.least, 0))} between the accuracies"
    return f"{percent(case.left)} of the starting loss is left on the training part itself{gap}"


RULE = Rule(
    "underfitting",
    _look,
    "enlarge the model (more units or layers), regularize less; where a larger one is no better on "
    "validation, the rest is noise, or is not in the inputs",
    "Train/Val accuracy",
)
