"""Owns the rule on gradients that do not reach the first layers."""

from __future__ import annotations

from scattershot_master.diagnosis.case import Case, Rule, number

_LEAST = 1e-6


def _look(case: Case) -> str:
    if case.broken or case.left < 0.3 or not case.layers:
        return ""
    weights = [one for one in case.layers[-1].get("parameters", ()) if len(one["shape"]) > 1]
    if not weights:
        return ""
    first = weights[0]
    if not first["grad_rms"] < _LEAST:
        return ""
    return (
        f"the mean gradient of {first['name']} is {number(first['grad_rms'])} at epoch "
        f"{case.layers[-1]['epoch']}; that of {weights[-1]['name']} {number(weights[-1]['grad_rms'])}"
    )


RULE = Rule(
    "vanishing_gradients",
    _look,
    "initialize larger (He, Xavier), use ReLU in place of tanh or sigmoid, batch normalization, "
    "skip connections, fewer layers",
    "Activation / Gradient distributions per layer",
)
