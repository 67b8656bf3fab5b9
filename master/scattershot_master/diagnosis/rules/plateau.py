"""Owns the rule on a loss that fell and then hangs, because the steps are too large."""

from __future__ import annotations

from scattershot_master.diagnosis.case import Case, Rule, number, percent

#: A median ratio of updates to weights from here on says that steps are large.
_LARGE = 4e-3


def _look(case: Case) -> str:
    if len(case.train) < 6 or case.broken or not case.constant:
        return ""
    hangs = 0.08 < case.left < 0.9 and case.gain < 0.02 and case.early > 0.05
    if not hangs or case.ratio is None or case.ratio < _LARGE:
        return ""
    return (
        f"the loss hangs at {percent(case.left)} of where it started since the first half of the "
        f"epochs, with updates of {number(case.ratio)} of the weights"
    )


RULE = Rule(
    "plateau",
    _look,
    "lower the learning rate, or let it decay (schedule): the steps are too large to settle",
    "Loss function; Annealing the learning rate",
)
