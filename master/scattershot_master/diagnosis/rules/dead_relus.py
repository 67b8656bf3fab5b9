"""Owns the rule on ReLU units that never fire."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from scattershot_master.diagnosis.trial_case import Case, Rule, percent

#: Up to half of a layer dies in trainings that show nothing else.
_SHARE = 0.5


def _look(case: Case) -> str:
    if not all(map(isfinite, case.train)):
        return ""  # it is the rate, and no unit fires on what is no number
    seen = case.layers[-1].get("activations", ()) if case.layers else ()
    worst: Mapping[str, Any] = max(seen, key=lambda one: one.get("dead", 0.0), default={})
    if worst.get("dead", 0.0) <= _SHARE:
        return ""
    return (
        f"{percent(worst['dead'])} of the units of {worst['name']} were 0 for every example at "
        f"epoch {case.layers[-1]['epoch']}"
    )


RULE = Rule(
    "dead_relus",
    _look,
    "lower the learning rate, start biases at zero or slightly above, use leaky ReLU or GELU",
    "Neural Networks Part 1, Commonly used activation functions",
)
