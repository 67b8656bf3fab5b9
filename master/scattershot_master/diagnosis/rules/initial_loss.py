"""Owns the rule on a first loss that is not what chance gives."""

from __future__ import annotations

from math import sqrt

from scattershot_master.diagnosis.case import Case, Rule, number


def _look(case: Case) -> str:
    first = case.layers[0] if case.layers else {}
    initial, chance = first.get("initial_loss"), first.get("chance_loss")
    if initial is None or not chance:
        return ""
    # outputs of unit variance cost half a unit more than chance does, with dropout one, and an
    # example's loss then scatters by about one: it is that of one batch
    scatter = 1 / sqrt(float(case.params.get("batch_size", 32)))
    if 0.6 * chance - scatter <= initial <= 2 * chance + 2 * scatter:
        return ""
    return f"the first loss was {number(initial)}; knowing nothing costs {number(chance)}"


RULE = Rule(
    "initial_loss",
    _look,
    "initialize the last layer with smaller weights and its biases at zero, and normalize the "
    "inputs; `scattershot check` tells more",
    "Sanity checks Tips/Tricks",
)
