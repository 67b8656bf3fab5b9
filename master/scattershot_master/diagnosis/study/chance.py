"""Owns the rule on differences between trials that the size of the validation part cannot tell."""

from __future__ import annotations

from math import isfinite, sqrt

from scattershot_master.diagnosis.case import Finding, number
from scattershot_master.diagnosis.study.case import StudyCase
from scattershot_master.ranking import finite


def chance(study: StudyCase) -> list[Finding]:
    """Find how many of the best trials lie within a standard error of the best accuracy.

    An accuracy p over n examples has the error sqrt(p (1 - p) / n) (binomial); it is never taken
    for less than that of one wrong example.
    """
    board = study.board
    if not board.metric.endswith("accuracy"):
        return []
    counts = [
        line["val_examples"]
        for case in study.cases.values()
        for line in case.layers[:1]
        if line.get("val_examples")
    ]
    values = [trial.best_value for trial in finite(board)]
    if not counts or len(values) < 2 or not (isfinite(values[0]) and 0 <= values[0] <= 1):
        return []
    best, n = values[0], counts[0]
    error = max(sqrt(best * (1 - best) / n), 1 / n)
    close = sum(best - one <= error for one in values)
    if close < 2:
        return []
    return [
        Finding(
            "chance",
            f"{close} trials lie within {number(error)} of the best, {number(best)}: one standard "
            f"error of an accuracy on {n} validation examples",
            "do not choose among these by this metric: take the ensemble, the cheapest one, or "
            "more validation examples; put no trust in gains smaller than that",
            "Hyperparameter optimization",
        )
    ]
