"""Owns the rule on gradients that are far too large."""

from __future__ import annotations

from math import isfinite

from scattershot_master.diagnosis.case import Case, Rule, number

_MOST = 50.0


def _look(case: Case) -> str:
    lines = [one for one in case.history if "grad_norm" in one]
    for line in lines:
        if not isfinite(line.get("train_loss", 0.0)):
            return ""  # what follows a loss that is no number is none either
        if not isfinite(line["grad_norm"]) or line["grad_norm"] > _MOST:
            return (
                f"the gradient's norm was {number(line['grad_norm'])} at epoch {line['epoch']:.0f}"
            )
    return ""


RULE = Rule(
    "exploding_gradients",
    _look,
    "clip the gradient's norm (clip_norm = 1), initialize smaller, lower the learning rate",
    "Activation / Gradient distributions per layer",
)
