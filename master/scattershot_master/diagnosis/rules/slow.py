"""Owns the rule on a loss that falls in a straight line: the learning rate is too low."""

from __future__ import annotations

from scattershot_master.diagnosis.case import Case, Rule, number, percent


def _look(case: Case) -> str:
    losses = case.train
    if len(losses) < 4 or case.broken or case.left < 0.4:
        return ""
    low = case.ratio is not None and case.ratio < 1e-3
    straight = case.gain > 0.4 * case.early and case.gain > 0.01
    crawls = low and case.gain <= 0.01 and case.early < 0.05
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
