"""Rules on the size of gradients: exploding, and vanishing before they reach the first layer."""

from __future__ import annotations

from math import isfinite, log, sqrt

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.diagnosis.trial_rules.diverged import DIVERGED
from scattershot_master.text import number

#: The largest norm for a loss like cross-entropy, whose gradient by an output is at most 1.
_MAX_NORM = 50.0


def _exploding(case: TrialCase) -> str:
    lines = [line for line in case.history if "grad_norm" in line]
    limit = _MAX_NORM * _unit(case)
    for line in lines:
        if not isfinite(line.get("train_loss", 0.0)):
            return ""  # from a loss that is not finite come gradients that are not
        if not isfinite(line["grad_norm"]) or line["grad_norm"] > limit > 0:
            return (
                f"the gradient's norm was {number(line['grad_norm'])} at epoch {line['epoch']:.0f}"
            )
    return ""


def _unit(case: TrialCase) -> float:
    """Return the gradient by an output to expect for a loss of this size; 0 where it is unknown."""
    if case.squared_error:
        return 2 * sqrt(max(case.start_loss, 0.0))
    # a loss in other units, or summed: its size in units of what cross-entropy starts with
    return case.loss_scale / log(10)


def _vanishing(case: TrialCase) -> str:
    first = case.first_weights
    if DIVERGED.evidence(case) or case.loss_left < 0.3 or not case.gradients_vanish:
        return ""  # after a rate that was too high, no gradient passes what is left
    if first is None:
        return ""
    record = case.layers[-1]
    last = [weights for weights in record["parameters"] if len(weights["shape"]) > 1][-1]
    return (
        f"the mean gradient of {first['name']} is {number(first['grad_rms'])} at epoch "
        f"{record['epoch']}; that of {last['name']} {number(last['grad_rms'])}"
    )


EXPLODING_GRADIENTS = Rule(
    "exploding_gradients",
    _exploding,
    "clip the gradient's norm (clip_norm = 1), normalize the inputs, initialize smaller, lower the "
    "learning rate",
    "Activation / Gradient distributions per layer",
)
VANISHING_GRADIENTS = Rule(
    "vanishing_gradients",
    _vanishing,
    "initialize larger (He, Xavier), use ReLU in place of tanh or sigmoid, batch normalization, "
    "skip connections, fewer layers",
    "Activation / Gradient distributions per layer",
)
