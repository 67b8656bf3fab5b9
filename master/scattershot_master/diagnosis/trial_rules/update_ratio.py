"""A rule on updates that are too large or too small for their weights."""

from __future__ import annotations

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.diagnosis.trial_rules.diverged import DIVERGED
from scattershot_master.text import number

#: The first epochs have large updates in healthy trainings, too.
_HIGH, _LOW, _EPOCHS = 2e-2, 5e-5, 4


def _update_ratio(case: TrialCase) -> str:
    late, largest = case.update_ratio, case.largest_update_ratio
    # around a minimum, where the loss has settled, large updates are the noise of the batches
    enough = len(case.history) >= _EPOCHS and not case.loss_settled
    if late is not None and late > _HIGH and enough:
        return f"updates are {number(late)} of the weights' size; about 1e-3 is right"
    if largest is None or largest > _LOW or case.gradients_vanish:
        return ""
    # a step that was far too large leaves weights beside which all others are small
    if not DIVERGED.evidence(case):
        return f"updates are at most {number(largest)} of the weights' size; about 1e-3 is right"
    return ""


UPDATE_RATIO = Rule(
    "update_ratio",
    _update_ratio,
    "above 1e-3 by much: lower the learning rate; below by much: raise it",
    "Ratio of weights:updates",
)
