"""Owns the rule on a training that was stopped while it was still getting better."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite, sqrt
from statistics import fmean

from scattershot_master.diagnosis.trial_case import Case, Rule, number

#: A gain over the last quarter of the epochs that is worth going on for, of its size and range.
_WORTH = 0.02


def _look(case: Case) -> str:
    values = [case.sign * one for one in case.series(case.metric)]
    if len(values) < 8 or not all(map(isfinite, values)) or case.broken or case.left > 0.95:
        return ""
    quarter = len(values) // 4
    # what only comes back to where it has been does not improve
    parts = [fmean(values[end - quarter : end]) for end in range(quarter, len(values) + 1)]
    last, before = parts[-1], max(parts[:-quarter])
    losses = case.train
    falling = fmean(losses[-quarter:]) < fmean(losses[-2 * quarter : -quarter]) if losses else True
    jumps = fmean((b - a) ** 2 for a, b in pairwise(values[-2 * quarter :])) / 2
    least = max(
        _WORTH * abs(before),
        _WORTH * (max(values) - min(values)),
        2 * sqrt(jumps * 2 / quarter),  # two standard errors of the difference
    )
    if not falling or min(last, values[-1]) - before < least:
        return ""
    return (
        f"{case.metric} went from {number(case.sign * before)} to {number(case.sign * last)} in "
        f"the last {quarter} of {len(values)} epochs"
    )


RULE = Rule("still_improving", _look, "train for more epochs", "Train/Val accuracy")
