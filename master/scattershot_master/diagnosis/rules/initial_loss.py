"""Owns the rule on a first loss that is not what chance gives."""

from __future__ import annotations

from scattershot_master.diagnosis.case import Case, Rule, number


def _look(case: Case) -> str:
    first = case.layers[0] if case.layers else {}
    initial, chance = first.get("initial_loss"), first.get("chance_loss")
    # one batch scatters, and outputs of unit variance cost half a unit more than chance does
    if initial is None or not chance or 0.6 * chance <= initial <= 1.6 * chance + 0.3:
        return ""
    return f"the first loss was {number(initial)}; knowing nothing costs {number(chance)}"


RULE = Rule(
    "initial_loss",
    _look,
    "initialize the last layer with smaller weights and its biases at zero, and normalize the "
    "inputs; `scattershot check` tells more",
    "Sanity checks Tips/Tricks",
)
