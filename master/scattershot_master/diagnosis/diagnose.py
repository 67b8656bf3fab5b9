"""Diagnosis of a trial, alone or among the others of its study."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isfinite, prod

from scattershot_master.diagnosis.trial_case import Finding, TrialCase
from scattershot_master.diagnosis.trial_rules import RULES

#: A model with this many times the parameters is larger; losses within these parts are equal.
_LARGER, _EQUAL = 2, (0.95, 1.1)


def diagnose(case: TrialCase) -> list[Finding]:
    """Return the rules' findings, in their order; none where all is well or nothing is known."""
    return [finding for rule in RULES.values() if (finding := rule.find(case))]


def diagnose_among(case: TrialCase, cases: Mapping[int, TrialCase]) -> list[Finding]:
    """Return the findings in a trial of a study, whose trials are `cases` (itself included).

    A model is not too small if larger ones came to the same loss.
    """
    findings = diagnose(case)
    if not any(finding.rule == "underfitting" for finding in findings):
        return findings
    if not _at_loss_floor(case, cases):
        return findings
    return [finding for finding in findings if finding.rule != "underfitting"]


def _at_loss_floor(case: TrialCase, cases: Mapping[int, TrialCase]) -> bool:
    """Return whether larger models came to the same validation loss, and none to a lower one.

    What is left of the loss is noise then, or is not in the inputs.
    """
    size, loss = _model_size(case), _least_val_loss(case)
    larger = [
        _least_val_loss(other)
        for other in cases.values()
        if size and _model_size(other) >= _LARGER * size
    ]
    low, high = (part * loss for part in _EQUAL)
    return low <= min(larger, default=inf) <= high


def _model_size(case: TrialCase) -> int:
    """Return how many parameters a trial's model has; 0 where that was not recorded."""
    parameters = case.layers[-1].get("parameters", ()) if case.layers else ()
    return sum(prod(parameter["shape"]) for parameter in parameters)


def _least_val_loss(case: TrialCase) -> float:
    return min(filter(isfinite, case.series("val_loss")), default=inf)
