"""Owns the rule on gradients that are far too large."""

from __future__ import annotations

from math import isfinite, log, sqrt

from scattershot_master.diagnosis.trial_case import Case, Rule, number

#: What is too large for a loss like cross-entropy, whose gradient by an output is 1 at most.
_MOST = 50.0


def _look(case: Case) -> str:
    lines = [one for one in case.history if "grad_norm" in one]
    most = _MOST * _unit(case)
    for line in lines:
        if not isfinite(line.get("train_loss", 0.0)):
            return ""  # what follows a loss that is no number is none either
        if not isfinite(line["grad_norm"]) or line["grad_norm"] > most > 0:
            return (
                f"the gradient's norm was {number(line['grad_norm'])} at epoch {line['epoch']:.0f}"
            )
    return ""


def _unit(case: Case) -> float:
    """Return the gradient by an output that a loss of this size has; 0 where nothing tells it."""
    if case.squared:
        return 2 * sqrt(max(case.initial, 0.0))
    # a loss of any other unit, or summed: as large as it is by what cross-entropy starts with
    return case.scale / log(10)


RULE = Rule(
    "exploding_gradients",
    _look,
    "clip the gradient's norm (clip_norm = 1), normalize the inputs, initialize smaller, lower the "
    "learning rate",
    "Activation / Gradient distributions per layer",
)
