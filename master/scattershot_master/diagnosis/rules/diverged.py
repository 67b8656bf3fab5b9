"""Owns the rule on a loss that rises, or is no number any more."""

from __future__ import annotations

from math import isfinite

from scattershot_master.diagnosis.trial_case import Case, Rule, number


def _look(case: Case) -> str:
    losses = case.train
    for epoch, loss in enumerate(losses, 1):
        if not isfinite(loss):
            return f"the loss was {loss} at epoch {epoch}"
    if case.broken:
        return f"the loss ends at {number(losses[-1])}; it began at {number(case.initial)}"
    most = max(losses, default=0.0)
    if case.initial > 0 and most > case.initial + 2 * max(case.initial, case.scale):
        return f"the loss rose to {number(most)}; it began at {number(case.initial)}"
    least = min(losses, default=0.0)
    # one epoch's jump must be larger than a rise that lasts
    jump, rise = losses[-1] - least if losses else 0.0, min(losses[-2:], default=0.0) - least
    if len(losses) > 2 and (rise > 0.3 * case.scale or jump > 0.5 * case.scale):
        return f"the loss rose from {number(least)} to {number(losses[-1])}"
    return ""


RULE = Rule(
    "diverged",
    _look,
    "lower the learning rate by a factor of 3 to 10; clip the gradient's norm (clip_norm = 1); "
    "warm up",
    "Loss function",
)
