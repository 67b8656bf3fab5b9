"""A rule on divergence: a loss that rises, or becomes NaN or infinite."""

from __future__ import annotations

from math import isfinite

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.text import number


def _diverged(case: TrialCase) -> str:
    losses = case.train_losses
    for epoch, loss in enumerate(losses, 1):
        if not isfinite(loss):
            return f"the loss was {loss} at epoch {epoch}"
    if case.ends_diverged:
        return f"the loss ends at {number(losses[-1])}; it began at {number(case.start_loss)}"
    most = max(losses, default=0.0)
    if case.start_loss > 0 and most > case.start_loss + 2 * max(case.start_loss, case.loss_scale):
        return f"the loss rose to {number(most)}; it began at {number(case.start_loss)}"
    least = min(losses, default=0.0)
    # one epoch's jump must be larger than a rise that lasts
    jump, rise = losses[-1] - least if losses else 0.0, min(losses[-2:], default=0.0) - least
    if len(losses) > 2 and (rise > 0.3 * case.loss_scale or jump > 0.5 * case.loss_scale):
        return f"the loss rose from {number(least)} to {number(losses[-1])}"
    return ""


DIVERGED = Rule(
    "diverged",
    _diverged,
    "lower the learning rate by a factor of 3 to 10; clip the gradient's norm (clip_norm = 1); "
    "warm up",
    "Loss function",
)
