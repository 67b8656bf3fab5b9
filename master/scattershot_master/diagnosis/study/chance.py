"""Owns the rule on differences between trials that noise alone explains."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, sqrt
from statistics import fmean

from scattershot.space import Space
from scattershot_master.board import TrialRecord
from scattershot_master.diagnosis.case import Finding, number
from scattershot_master.diagnosis.study.case import StudyCase
from scattershot_master.ranking import finite

#: Points no further apart than this on each axis (as a part of its range) are nearly the same.
_NEAR = 0.02
#: So many of the best trials, at most, are compared with each other.
_COMPARED = 200
_NAMED = 4


def chance(study: StudyCase) -> list[Finding]:
    """Find how many of the best trials lie within the noise of the best value.

    The noise is the larger of two: the standard error of an accuracy p over n validation examples,
    sqrt(p (1 - p) / n) (binomial), never less than that of one wrong example; and the standard
    deviation of trials that differ by their seed and hardly anything else.
    """
    board = study.board
    ranking = finite(board)
    if len(ranking) < 2 or study.hopeless:
        return []
    best = ranking[0].best_value
    noises = [one for one in (_error(study, best), _spread(study, ranking)) if one]
    if not noises:
        return []
    noise = max(noises)[0]
    values = [trial.best_value for trial in ranking]
    close = sum(abs(best - one) <= noise for one in values)
    if close < 2:
        return []
    told = "; ".join(source for _, source in sorted(noises, reverse=True))
    return [
        Finding(
            "chance",
            f"{close} of {len(values)} trials lie within {number(noise)} of the best "
            f"{board.metric}, {number(best)}: {told}",
            "do not choose among these by this metric: take the ensemble, the cheapest one, or "
            "more validation examples; put no trust in gains smaller than that",
            "Hyperparameter optimization",
        )
    ]


def _error(study: StudyCase, best: float) -> tuple[float, str] | None:
    """Return the standard error of the best accuracy, and what it is, where both can be known."""
    lines = (line for case in study.cases.values() for line in case.layers[:1])
    n = next((line["val_examples"] for line in lines if line.get("val_examples")), 0)
    if not n or not study.board.metric.endswith("accuracy") or not 0 <= best <= 1:
        return None
    error = max(sqrt(best * (1 - best) / n), 1 / n)
    return error, f"{number(error)} is one standard error of an accuracy on {n} validation examples"


def _spread(study: StudyCase, ranking: Sequence[TrialRecord]) -> tuple[float, str] | None:
    """Return the pooled standard deviation of near-identical trials, and which they are.

    Only those of the better half count, and only trials of as many epochs are compared: what does
    not learn, or breaks now and then, scatters more than what one would choose from.
    """
    space = Space.parse(study.board.study["space"])
    found: list[tuple[list[float], list[TrialRecord]]] = []
    for trial in ranking[: min(-(-len(ranking) // 2), _COMPARED)]:
        point = space.locate(trial.params)
        for other, group in found:
            if trial.done == group[0].done and _near(space, point, other):
                group.append(trial)
                break
        else:
            found.append((point, [trial]))
    groups = [group for _, group in found if len(group) > 1]
    if not groups:
        return None
    squares = freedom = 0.0
    for group in groups:
        mean = fmean(trial.best_value for trial in group)
        squares += sum((trial.best_value - mean) ** 2 for trial in group)
        freedom += len(group) - 1
    spread = sqrt(squares / freedom)
    count = sum(map(len, groups))
    numbers = sorted(trial.number for group in groups for trial in group)
    named = ", ".join(map(str, numbers[:_NAMED])) + (", …" if count > _NAMED else "")
    return spread, (
        f"{number(spread)} is the standard deviation of {count} trials that differ by little but "
        f"their seeds ({named})"
    )


def _near(space: Space, a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether two points have the same choices and integers, and near continuous values."""
    return all(
        (isnan(u) and isnan(v)) or abs(u - v) <= (0 if axis.cells else _NEAR)
        for axis, u, v in zip(space.axes, a, b, strict=True)
    )
