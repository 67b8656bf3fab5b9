"""A rule on a training that ended while it was still improving."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite, sqrt
from statistics import fmean

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.text import number

#: A gain over the last quarter of the epochs that is worth more epochs: a part of the metric's
#: size and of its range.
_WORTH = 0.02


def _still_improving(case: TrialCase) -> str:
    objective = case.objective
    values = [objective.score(value) for value in case.series(objective.metric)]
    if len(values) < 8 or not all(map(isfinite, values)):
        return ""
    if case.ends_diverged or case.loss_left > 0.95:
        return ""
    quarter = len(values) // 4
    # a metric that only comes back to an earlier level does not improve
    parts = [fmean(values[end - quarter : end]) for end in range(quarter, len(values) + 1)]
    last, before = parts[-1], max(parts[:-quarter])
    losses = case.train_losses
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
        f"{objective.metric} went from {number(objective.score(before))} to "
        f"{number(objective.score(last))} in the last {quarter} of {len(values)} epochs"
    )


STILL_IMPROVING = Rule(
    "still_improving", _still_improving, "train for more epochs", "Train/Val accuracy"
)
