"""Owns the rule on a model that cannot even fit what it is trained on."""

from __future__ import annotations

from statistics import fmean

from scattershot_master.diagnosis.case import Case, Rule, percent
from scattershot_master.diagnosis.rules import dead_relus, plateau

_LEFT = 0.25


def _look(case: Case) -> str:
    if len(case.train) < 6 or case.broken or case.left < _LEFT or case.gain > 0.1:
        return ""
    if case.early < 0.05 or case.left > 0.9:
        return ""  # it has not learned at all: the rate or the initialization, not the size
    if plateau.RULE.look(case) or dead_relus.RULE.look(case):
        return ""  # steps that are too large, or dead units, hide what the model could fit
    val, train = case.series("val_loss"), case.series("train_loss")
    if val and fmean(val[-2:]) < _LEFT * case.start:
        return ""  # label smoothing, dropout or augmentation keep the training loss up
    if case.apart or (val and train and val[-1] > 1.25 * train[-1]):
        return ""
    if case.slope > 0.01 or (case.ratio is not None and not 3e-4 <= case.ratio <= 1e-2):
        return ""
    gap = "" if case.gap is None else f", {percent(max(case.gap, 0))} between the accuracies"
    return f"{percent(case.left)} of the starting loss is left on the training part itself{gap}"


RULE = Rule(
    "underfitting",
    _look,
    "enlarge the model (more units or layers), regularize less; where a larger one is no better on "
    "validation, the rest is noise, or is not in the inputs",
    "Train/Val accuracy",
)
