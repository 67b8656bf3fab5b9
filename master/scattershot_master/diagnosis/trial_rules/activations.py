"""Rules on units without a gradient: ReLU units that never fire, saturated tanh and sigmoid."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.text import percent

#: The part of a layer's units; up to half die in trainings that show nothing else.
_DEAD_PART, _SATURATED_PART = 0.5, 0.5


def _dead_relus(case: TrialCase) -> str:
    if not all(map(isfinite, case.train_losses)):
        return ""  # the rate is to blame, and no unit fires on NaN
    layers = case.layers[-1].get("activations", ()) if case.layers else ()
    worst: Mapping[str, Any] = max(layers, key=lambda layer: layer.get("dead", 0.0), default={})
    if worst.get("dead", 0.0) <= _DEAD_PART:
        return ""
    return (
        f"{percent(worst['dead'])} of the units of {worst['name']} were 0 for every example at "
        f"epoch {case.layers[-1]['epoch']}"
    )


def _saturated(case: TrialCase) -> str:
    if not case.layers:
        return ""
    last = case.layers[-1]
    initial = {
        layer["name"]: layer.get("saturated", 0.0)
        for layer in case.layers[0].get("initial_activations", ())
    }
    # units that training drove to their ends have learned so; those at it from the start cannot
    layers = [
        layer
        for layer in last.get("activations", ())
        if initial.get(layer["name"], 0.0) > _SATURATED_PART
    ]
    worst: Mapping[str, Any] = max(
        layers, key=lambda layer: layer.get("saturated", 0.0), default={}
    )
    if worst.get("saturated", 0.0) <= _SATURATED_PART:
        return ""
    return (
        f"{percent(worst['saturated'])} of the activations of {worst['name']} ({worst['kind']}) "
        f"were at the ends of their range at epoch {last['epoch']}; before the first step "
        f"{percent(initial[worst['name']])}"
    )


DEAD_RELUS = Rule(
    "dead_relus",
    _dead_relus,
    "lower the learning rate, start biases at zero or slightly above, use leaky ReLU or GELU",
    "Neural Networks Part 1, Commonly used activation functions",
)
SATURATED = Rule(
    "saturated",
    _saturated,
    "initialize smaller (Xavier), normalize the inputs, lower the learning rate, use ReLU, batch "
    "normalization",
    "Activation / Gradient distributions per layer",
)
