"""Owns the rule on tanh and sigmoid units at the ends of their range, where no gradient passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scattershot_master.diagnosis.case import Case, Rule, percent

_SHARE = 0.5


def _look(case: Case) -> str:
    seen = case.layers[-1].get("activations", ()) if case.layers else ()
    worst: Mapping[str, Any] = max(seen, key=lambda one: one.get("saturated", 0.0), default={})
    if worst.get("saturated", 0.0) <= _SHARE:
        return ""
    return (
        f"{percent(worst['saturated'])} of the activations of {worst['name']} "
        f"({worst['kind']}) were at the ends of their range at epoch {case.layers[-1]['epoch']}"
    )


RULE = Rule(
    "saturated",
    _look,
    "initialize smaller (Xavier), normalize the inputs, use ReLU, batch normalization",
    "Activation / Gradient distributions per layer",
)
