"""Owns the rule on gradients that do not reach the first layers."""

from __future__ import annotations

from scattershot_master.diagnosis.rules import diverged
from scattershot_master.diagnosis.trial_case import Case, Rule, number


def _look(case: Case) -> str:
    first = case.first_weights
    if diverged.RULE.look(case) or case.left < 0.3 or not case.unreached or first is None:
        return ""  # a rate that was too high leaves nothing behind that gradients could pass
    line = case.layers[-1]
    last = [one for one in line["parameters"] if len(one["shape"]) > 1][-1]
    return (
        f"the mean gradient of {first['name']} is {number(first['grad_rms'])} at epoch "
        f"{line['epoch']}; that of {last['name']} {number(last['grad_rms'])}"
    )


RULE = Rule(
    "vanishing_gradients",
    _look,
    "initialize larger (He, Xavier), use ReLU in place of tanh or sigmoid, batch normalization, "
    "skip connections, fewer layers",
    "Activation / Gradient distributions per layer",
)
