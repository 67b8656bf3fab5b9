"""Owns the rule on a loss that falls in a straight line: the learning rate is too low."""

from __future__ import annotations

from scattershot_master.diagnosis.trial_case import Case, Rule, number, percent


def _look(case: Case) -> str:
    losses = case.train
    if len(losses) < 4 or case.broken or case.left < 0.4 or case.unreached:
        return ""
    if not 0.4 * case.initial < losses[-1] <= max(losses) < 1.3 * case.initial:
        return ""  # it has been fast enough, or too fast
    low = case.ratio is not None and case.ratio < 1e-3
    half = len(losses) // 2
    first, second = losses[0] - losses[half], losses[half] - losses[-1]
    straight = second > 0.5 * first > 0 and second > 0.005 * case.initial
    crawls = low and case.constant and losses[0] - losses[-1] < 0.02 * case.initial
    if not (straight or crawls) or (case.ratio is not None and not low):
        return ""
    updates = "" if case.ratio is None else f"; updates are {number(case.ratio)} of the weights"
    return (
        f"after {len(losses)} epochs {percent(case.left)} of the starting loss is left, and it "
        f"falls {'in a straight line' if straight else 'hardly at all'}{updates}"
    )


RULE = Rule(
    "slow",
    _look,
    "raise the learning rate by a factor of 3 to 10; move the lower bound of its range up",
    "Loss function",
)
