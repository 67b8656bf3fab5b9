"""Owns the rule on a loss that fell and then jumps up and down, because the steps are too large."""

from __future__ import annotations

from statistics import fmean

from scattershot_master.diagnosis.trial_case import Case, Rule, number, percent

#: A median ratio of updates to weights from here on says that steps are large.
_LARGE = 4e-3
#: So much of the starting loss must be left.
_LEFT = 0.05
#: What part of its falls the loss must have risen again.
_BACK = 1 / 3


def _look(case: Case) -> str:
    if len(case.train) < 6 or case.broken or not case.constant or case.still:
        return ""
    if case.apart or case.kept_up:
        return ""  # it fits its examples, or what is random about them keeps the loss up
    # of a loss that jumps, the last epochs alone may be low
    level = (
        fmean(case.train[-max(2, len(case.train) // 4) :]) / case.start if case.start > 0 else 0.0
    )
    hangs = _LEFT < level < 0.9 and case.gain < 0.15 and case.early > 0.05
    if not hangs or case.ratio is None or case.ratio < _LARGE:
        return ""
    falls = -sum(one for one in case.moves if one < 0)
    rises = sum(one for one in case.moves if one > 0)
    if rises <= _BACK * falls:
        return ""
    rose = sum(one > 0 for one in case.moves)
    return (
        f"the loss rose again in {rose} of the last {len(case.moves)} epochs and ended at "
        f"{percent(level)} of where it started, with updates of {number(case.ratio)} of the "
        "weights"
    )


RULE = Rule(
    "plateau",
    _look,
    "lower the learning rate, or let it decay (schedule): the steps are too large to settle",
    "Loss function; Annealing the learning rate",
)
