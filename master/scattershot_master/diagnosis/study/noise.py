"""Owns how much of a study's metric is noise: by the size of its validation part, and by twins."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, log, sqrt
from statistics import fmean

from scattershot_common.space.space import Axis, Space
from scattershot_master import text
from scattershot_master.diagnosis.study.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import number
from scattershot_master.state.ranking import finite
from scattershot_master.state.study_state import TrialRecord

#: Points no further apart than this on each axis are nearly the same: as a part of its range, and
#: as a factor on a log scale, whose range may have many decades.
_NEAR, _FACTOR = 0.01, 1.05
#: So many of the best trials, at most, are compared with each other.
_COMPARED = 200
#: The spread of two trials is no estimate.
_LEAST = 3
_NAMED = 4


def noises(study: StudyCase) -> list[tuple[float, str]]:
    """Return what is known of the noise near the best value, and from where, the largest first.

    There may be two: the standard error of an accuracy p over n validation examples,
    sqrt(p (1 - p) / n) (binomial), never less than that of one wrong example; and the standard
    deviation of trials that differ by their seed and hardly anything else.
    """
    ranking = finite(study.state)
    if not ranking:
        return []
    found = (_error(study, ranking[0].best_value), _spread(study, ranking))
    return sorted((one for one in found if one), reverse=True)


def noise_of(study: StudyCase) -> float:
    """Return the noise near the best value; 0 where nothing is known of it."""
    return next((noise for noise, _ in noises(study)), 0.0)


def _error(study: StudyCase, best: float) -> tuple[float, str] | None:
    """Return the standard error of the best accuracy, and what it is, where both can be known."""
    lines = (line for case in study.cases.values() for line in case.layers[:1])
    n = next((line["val_examples"] for line in lines if line.get("val_examples")), 0)
    if not n or not study.state.metric.endswith("accuracy") or not 0 <= best <= 100:
        return None
    whole = 1 if best <= 1 else 100
    share = best / whole
    error = whole * max(sqrt(share * (1 - share) / n), 1 / n)
    return error, f"{number(error)} is one standard error of an accuracy on {n} validation examples"


def _spread(study: StudyCase, ranking: Sequence[TrialRecord]) -> tuple[float, str] | None:
    """Return the pooled standard deviation of near-identical trials, and which they are.

    Only the best quarter of the points count, by their trials' mean: what does not learn, or
    breaks now and then, scatters more than what one would choose from.
    """
    points = _points(study, ranking[:_COMPARED])
    points.sort(key=lambda group: -study.state.sign * fmean(one.best_value for one in group))
    groups = [group for group in points[: -(-len(points) // 4)] if len(group) > 1]
    count = sum(map(len, groups))
    if count < _LEAST:
        return None
    squares = 0.0
    for group in groups:
        mean = fmean(trial.best_value for trial in group)
        squares += sum((trial.best_value - mean) ** 2 for trial in group)
    if not squares:
        return None
    spread = sqrt(squares / (count - len(groups)))
    numbers = sorted(trial.number for group in groups for trial in group)
    return spread, (
        f"{number(spread)} is the standard deviation of {count} trials that differ by little but "
        f"their seeds ({text.some(numbers, _NAMED)})"
    )


def _points(study: StudyCase, ranking: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """Return the trials, those together that have nearly the same point and as many epochs."""
    space = study.state.settings.space
    found: list[tuple[list[float], list[TrialRecord]]] = []
    for trial in ranking:
        point = space.locate(trial.params)
        for other, group in found:
            if trial.done == group[0].done and _near(space, point, other):
                group.append(trial)
                break
        else:
            found.append((point, [trial]))
    return [group for _, group in found]


def _near(space: Space, a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether two points have the same choices and integers, and near continuous values."""
    return all(
        (isnan(u) and isnan(v)) or abs(u - v) <= _reach(axis)
        for axis, u, v in zip(space.axes, a, b, strict=True)
    )


def _reach(axis: Axis) -> float:
    """Return how far apart nearly equal coordinates may lie."""
    if axis.cells:
        return 0.0
    return min(_NEAR, log(_FACTOR) / log(axis.high / axis.low)) if axis.log else _NEAR
