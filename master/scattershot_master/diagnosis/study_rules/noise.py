"""Noise of a study's metric, from its validation part and from near-identical trials; its rule."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, log, sqrt
from statistics import fmean
from typing import NamedTuple

from scattershot_common.space.space import Axis, Space
from scattershot_master import text
from scattershot_master.diagnosis.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import Finding
from scattershot_master.state.progress import finite
from scattershot_master.state.study_state import TrialRecord

#: Points no further apart than this on each axis are near-identical: as a part of its range, and
#: as a factor on a log scale, whose range may have many decades.
_NEAR, _FACTOR = 0.01, 1.05
#: The number of the best trials that are compared with each other.
_COMPARED = 200
#: The spread of two trials is no estimate.
_MIN_TRIALS = 3
_NAMED = 4


class Noise(NamedTuple):
    """The noise near the best value, in units of the metric, and a sentence on its source."""

    size: float
    source: str


def within_noise(study: StudyCase) -> list[Finding]:
    """Find how many of the best trials lie within the noise of the best value."""
    state = study.state
    values = [trial.best_value for trial in finite(state)]
    estimates = [] if study.all_diverged else noise_estimates(study)
    if not estimates:
        return []
    best, noise = values[0], estimates[0].size
    close = sum(abs(best - value) <= noise for value in values)
    if close < 2:
        return []
    sources = "; ".join(estimate.source for estimate in estimates)
    return [
        Finding(
            "chance",
            f"{close} of {len(values)} trials lie within {text.number(noise)} of the best "
            f"{state.objective.metric}, {text.number(best)}: {sources}",
            "do not choose among these by this metric: take the ensemble, the cheapest one, or "
            "more validation examples; put no trust in gains smaller than that",
            "Hyperparameter optimization",
        )
    ]


def noise_estimates(study: StudyCase) -> list[Noise]:
    """Return the estimates of the noise near the best value, the largest first.

    There may be two: the standard error of an accuracy p over n validation examples,
    sqrt(p (1 - p) / n) (binomial), never less than that of one wrong example; and the standard
    deviation of trials that differ in little but their seeds.
    """
    ranking = finite(study.state)
    if not ranking:
        return []
    estimates = (_standard_error(study, ranking[0].best_value), _spread(study, ranking))
    return sorted((estimate for estimate in estimates if estimate), reverse=True)


def noise_size(study: StudyCase) -> float:
    """Return the noise near the best value; 0 where nothing is known of it."""
    return next((estimate.size for estimate in noise_estimates(study)), 0.0)


def _standard_error(study: StudyCase, best: float) -> Noise | None:
    """Return the standard error of the best value, if that is an accuracy on a known part."""
    records = (record for case in study.cases.values() for record in case.layers[:1])
    n = next((record["val_examples"] for record in records if record.get("val_examples")), 0)
    if not n or not study.state.objective.metric.endswith("accuracy") or not 0 <= best <= 100:
        return None
    whole = 1 if best <= 1 else 100
    share = best / whole
    error = whole * max(sqrt(share * (1 - share) / n), 1 / n)
    return Noise(
        error,
        f"{text.number(error)} is one standard error of an accuracy on {n} validation examples",
    )


def _spread(study: StudyCase, ranking: Sequence[TrialRecord]) -> Noise | None:
    """Return the pooled standard deviation of near-identical trials.

    Only the best quarter of the points count, by their trials' mean: trials that do not learn, or
    sometimes diverge, scatter more than those one would choose from.
    """
    groups = _near_identical(study, ranking[:_COMPARED])
    score = study.state.objective.score
    groups.sort(key=lambda group: -score(fmean(trial.best_value for trial in group)))
    groups = [group for group in groups[: -(-len(groups) // 4)] if len(group) > 1]
    count = sum(map(len, groups))
    if count < _MIN_TRIALS:
        return None
    squares = 0.0
    for group in groups:
        mean = fmean(trial.best_value for trial in group)
        squares += sum((trial.best_value - mean) ** 2 for trial in group)
    if not squares:
        return None
    spread = sqrt(squares / (count - len(groups)))
    numbers = sorted(trial.number for group in groups for trial in group)
    return Noise(
        spread,
        f"{text.number(spread)} is the standard deviation of {count} trials that differ by little "
        f"but their seeds ({text.first_few(numbers, _NAMED)})",
    )


def _near_identical(study: StudyCase, ranking: Sequence[TrialRecord]) -> list[list[TrialRecord]]:
    """Return the trials in groups of near-identical points and equal numbers of epochs."""
    space = study.state.settings.space
    groups: list[tuple[list[float], list[TrialRecord]]] = []
    for trial in ranking:
        point = space.locate(trial.params)
        for center, group in groups:
            if trial.done == group[0].done and _near(space, point, center):
                group.append(trial)
                break
        else:
            groups.append((point, [trial]))
    return [group for _, group in groups]


def _near(space: Space, a: Sequence[float], b: Sequence[float]) -> bool:
    """Return whether two points have the same choices and integers, and near continuous values."""
    return all(
        (isnan(u) and isnan(v)) or abs(u - v) <= _tolerance(axis)
        for axis, u, v in zip(space.axes, a, b, strict=True)
    )


def _tolerance(axis: Axis) -> float:
    """Return how far apart the coordinates of near-identical points may be."""
    if axis.cells:
        return 0.0
    return min(_NEAR, log(_FACTOR) / log(axis.high / axis.low)) if axis.log else _NEAR
