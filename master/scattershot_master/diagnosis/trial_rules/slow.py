"""A rule on a loss that falls in a straight line: the learning rate is too low."""

from __future__ import annotations

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.text import number, percent


def _slow(case: TrialCase) -> str:
    losses = case.train_losses
    if len(losses) < 4 or case.ends_diverged or case.loss_left < 0.4 or case.gradients_vanish:
        return ""
    if not 0.4 * case.start_loss < losses[-1] <= max(losses) < 1.3 * case.start_loss:
        return ""  # it has been fast enough, or too fast
    ratio = case.update_ratio
    small_updates = ratio is not None and ratio < 1e-3
    half = len(losses) // 2
    first, second = losses[0] - losses[half], losses[half] - losses[-1]
    straight = second > 0.5 * first > 0 and second > 0.005 * case.start_loss
    fell = losses[0] - losses[-1]
    crawls = small_updates and case.constant_lr and fell < 0.02 * case.start_loss
    if not (straight or crawls) or (ratio is not None and not small_updates):
        return ""
    updates = "" if ratio is None else f"; updates are {number(ratio)} of the weights"
    return (
        f"after {len(losses)} epochs {percent(case.loss_left)} of the starting loss is left, and "
        f"it falls {'in a straight line' if straight else 'hardly at all'}{updates}"
    )


SLOW = Rule(
    "slow",
    _slow,
    "raise the learning rate by a factor of 3 to 10; move the lower bound of its range up",
    "Loss function",
)
