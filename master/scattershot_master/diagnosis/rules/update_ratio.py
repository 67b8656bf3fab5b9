"""Owns the rule on updates that are too large or too small for their weights."""

from __future__ import annotations

from scattershot_master.diagnosis.rules import diverged
from scattershot_master.diagnosis.trial_case import Case, Rule, number

#: The first epochs have large updates in healthy trainings, too.
_HIGH, _LOW, _EPOCHS = 2e-2, 5e-5, 4


def _look(case: Case) -> str:
    late, largest = case.ratio, case.largest_ratio
    # around a minimum, where the loss stands, large updates are the noise of the batches
    if late is not None and late > _HIGH and len(case.history) >= _EPOCHS and not case.still:
        return f"updates are {number(late)} of the weights' size; about 1e-3 is right"
    if largest is None or largest > _LOW or case.unreached:
        return ""
    # a step that was far too large leaves weights beside which all others are small
    if not diverged.RULE.look(case):
        return f"updates are at most {number(largest)} of the weights' size; about 1e-3 is right"
    return ""


RULE = Rule(
    "update_ratio",
    _look,
    "above 1e-3 by much: lower the learning rate; below by much: raise it",
    "Ratio of weights:updates",
)
