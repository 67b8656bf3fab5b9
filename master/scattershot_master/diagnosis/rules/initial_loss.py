"""Owns the rule on a first loss that is not what chance gives."""

from __future__ import annotations

from math import inf, sqrt

from scattershot_master.diagnosis.trial_case import Case, Rule, number


def _look(case: Case) -> str:
    initial, chance = case.first, case.chance
    if initial is None or chance is None or chance <= 0:
        return ""
    # outputs of unit variance cost half a unit more than chance does, with dropout one, and an
    # example's loss then scatters by about one: it is that of one batch
    scatter = 1 / sqrt(float(case.params.get("batch_size", 32)))
    low, high = 0.6 * chance - scatter, 2 * chance + 2 * scatter
    if case.squared:  # it scatters with its size, and fresh outputs cost as much again
        low, high = -inf, 8 * chance * (1 + scatter)
    if low <= initial <= high:
        return ""
    return f"the first loss was {number(initial)}; knowing nothing costs {number(chance)}"


RULE = Rule(
    "initial_loss",
    _look,
    "initialize the last layer with smaller weights and its biases at zero, and normalize the "
    "inputs (and the targets, if these are numbers); `scattershot check` tells more",
    "Sanity checks Tips/Tricks",
)
