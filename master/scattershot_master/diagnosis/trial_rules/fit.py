"""Rules on how well a model fits: overfitting its training part, or underfitting even that."""

from __future__ import annotations

from math import isfinite
from statistics import fmean

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.diagnosis.trial_rules.activations import DEAD_RELUS
from scattershot_master.diagnosis.trial_rules.slow import SLOW
from scattershot_master.diagnosis.trial_rules.stalled_loss import EARLY_DECAY, PLATEAU
from scattershot_master.text import number, percent

#: The rise of the validation loss above its minimum.
_RISE = 1.5
#: With a smaller gap, as a part of 1, a higher validation loss is only overconfidence.
_POINTS = 0.06
#: The part of the starting loss that only a model which is too small leaves. Where two classes
#: overlap half is left; of a squared error half is usual if targets are measured, not made.
_LEFT, _LEFT_OF_SQUARES = 0.4, 0.7
#: From this part of wrong answers on, overlapping classes do not explain them.
_WRONG = 1 / 3


def _overfitting(case: TrialCase) -> str:
    if case.ends_diverged:
        return ""
    if case.gap is not None and case.gap.wide:
        points = f"{100 * case.gap.smallest:.0f} points"
        return f"{case.gap.name} is {points} or more better on the training part at the end"
    return _val_loss_rose(case) or _losses_apart(case)


def _val_loss_rose(case: TrialCase) -> str:
    """Return how the validation loss rose while the training loss fell, if it did."""
    val, train = case.series("val_loss"), case.series("train_loss")
    if len(val) < 4 or len(train) < 4 or not all(map(isfinite, val)):
        return ""
    least = min(val)
    # the last value of a loss that jumps may be high by chance
    end = min(val[-max(2, len(val) // 4) :])
    fell = len(train) == len(val) and train[-1] < min(end / 3, train[val.index(least)])
    if end > _RISE * least and end - least > 0.1 * case.loss_scale and fell:
        return (
            f"the validation loss rose from {number(least)} (epoch {val.index(least) + 1}) to "
            f"{number(val[-1])} while the training loss fell to {number(train[-1])}"
        )
    return ""


def _losses_apart(case: TrialCase) -> str:
    """Return how far the losses are apart, if so far that it costs right answers."""
    if not case.val_loss_far_above or (case.gap is not None and case.gap.smallest < _POINTS):
        return ""
    train, val = map(fmean, case.last_losses)
    return (
        f"the validation loss is {number(val)} at the end, the training loss {number(train)}: "
        f"{number(val / train)} times less"
    )


def _underfitting(case: TrialCase) -> str:
    least = _LEFT_OF_SQUARES if case.squared_error else _LEFT
    if len(case.train_losses) < 6 or case.ends_diverged:
        return ""
    if case.loss_left < least or case.late_gain > 0.1:
        return ""
    if case.early_gain < 0.05 or case.loss_left > 0.9:
        return ""  # it has not learned at all: the rate or the initialization, not the size
    other_causes = PLATEAU, DEAD_RELUS, SLOW, EARLY_DECAY
    if case.train_loss_above_val or any(rule.evidence(case) for rule in other_causes):
        return ""  # it is not the size that keeps it from fitting more
    train, val = case.last_losses
    if val and fmean(val) > 1.25 * fmean(train):
        return ""
    if case.gap is not None:
        wrong = 1 - fmean(case.gap.train)
        if wrong < _WRONG or case.gap.smallest > max(0.05, 0.15 * wrong):
            return ""
    ratio = case.update_ratio
    if case.final_slope > 0.01 or (ratio is not None and not 3e-4 <= ratio <= 1e-2):
        return ""
    gap = ""
    if case.gap is not None:
        gap = f", {percent(max(case.gap.smallest, 0))} between the accuracies"
    return (
        f"{percent(case.loss_left)} of the starting loss is left on the training part itself{gap}"
    )


OVERFITTING = Rule(
    "overfitting",
    _overfitting,
    "regularize more (weight_decay, dropout, label_smoothing), augment, stop earlier, or get more "
    "data",
    "Train/Val accuracy",
)
UNDERFITTING = Rule(
    "underfitting",
    _underfitting,
    "enlarge the model (more units or layers), regularize less; where a larger one is no better on "
    "validation, the rest is noise, or is not in the inputs",
    "Train/Val accuracy",
)
