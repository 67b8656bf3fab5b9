"""Owns the rule on tanh and sigmoid units at the ends of their range, where no gradient passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scattershot_master.diagnosis.trial_case import Case, Rule, percent

_SHARE = 0.5


def _look(case: Case) -> str:
    if not case.layers:
        return ""
    last = case.layers[-1]
    at_start = case.layers[0].get("initial_activations", ())
    begun = {one["name"]: one.get("saturated", 0.0) for one in at_start}
    # units that training drove to their ends have learned so; those at it from the start cannot
    seen = [one for one in last.get("activations", ()) if begun.get(one["name"], 0.0) > _SHARE]
    worst: Mapping[str, Any] = max(seen, key=lambda one: one.get("saturated", 0.0), default={})
    if worst.get("saturated", 0.0) <= _SHARE:
        return ""
    return (
        f"{percent(worst['saturated'])} of the activations of {worst['name']} ({worst['kind']}) "
        f"were at the ends of their range at epoch {last['epoch']}; before the first step "
        f"{percent(begun[worst['name']])}"
    )


RULE = Rule(
    "saturated",
    _look,
    "initialize smaller (Xavier), normalize the inputs, lower the learning rate, use ReLU, batch "
    "normalization",
    "Activation / Gradient distributions per layer",
)
