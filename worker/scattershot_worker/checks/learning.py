"""Owns the check that the loss falls on the full training part within a hundred iterations.

Notes: "Baby-sitting the learning process" in neural-networks-3, and the course's recipe, step 3:
"find LR that makes loss go down" within about 100 iterations; good ones to try are 1e-1 … 1e-4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import islice
from statistics import fmean

from scattershot_common.task.check_result import CheckResult
from scattershot_worker.checks.task_under_test import TaskUnderTest, set_rate

_RATES = (1e-1, 1e-2, 1e-3, 1e-4)
_ITERATIONS = 100
#: The mean of the last losses over that of the first batches' with fresh weights.
_LAST, _FIRST = 20, 5
_FALLS, _CREEPS = 0.9, 0.98
#: A little weight decay, as in the recipe.
_DECAY = 1e-4


def check(subject: TaskUnderTest) -> CheckResult:
    """Train for a hundred iterations at each of four learning rates; say at which the loss falls.

    The steps are the trainer's own: dropout, augmentation, precision and the like are as the
    hyperparameters say. The weight decay is at most 1e-4, and nothing is compiled.
    """
    curves = {rate: _losses(subject, rate) for rate in _RATES}
    before = _before(subject)
    scale = _scale(before, curves)
    kept = {rate: _ratio(losses, fmean(before), scale) for rate, losses in curves.items()}
    falls = [rate for rate, ratio in kept.items() if ratio <= _FALLS]
    best = min(kept, key=lambda rate: kept[rate])
    lines = ", ".join(f"{_change(ratio)} at {rate:g}" for rate, ratio in kept.items())
    found = f"loss after {_ITERATIONS} iterations: {lines}"
    numbers = {
        "iterations": _ITERATIONS,
        "batch_size": subject.batch_size,
        "ratios": [[rate, ratio] for rate, ratio in kept.items()],
        "losses": [[rate, losses] for rate, losses in curves.items()],
        "falls_at": falls,
        "best": best,
    }
    if falls:
        listed = ", ".join(f"{rate:g}" for rate in falls)
        return CheckResult(
            "learning",
            "pass",
            found,
            f"It learns at {listed}; fastest at {best:g}.",
            numbers=numbers,
        )
    if kept[best] <= _CREEPS:
        return CheckResult(
            "learning",
            "warn",
            found,
            f"The loss creeps, at best at {best:g}.",
            "Look at the learning rates around it (the check `rates`), at the initial weights and "
            "at whether the inputs are normalized.",
            numbers=numbers,
        )
    return CheckResult(
        "learning",
        "fail",
        found,
        "At none of these learning rates does the loss fall.",
        "If `overfit` passes, the data is at fault: labels in another order than the inputs, "
        "inputs not normalized. If not, begin there.",
        numbers=numbers,
    )


def _losses(subject: TaskUnderTest, rate: float) -> list[float]:
    """Return the loss of each iteration's batch; fewer where it blew up."""
    changes = {"lr": rate, "weight_decay": min(subject.params.get("weight_decay", _DECAY), _DECAY)}
    training = subject.training(**changes, compile=False)  # which changes no number
    set_rate(training.optimizer, rate)
    return [*islice(subject.train(training, subject.batches()), _ITERATIONS)]


def _ratio(losses: list[float], before: float, scale: float) -> float:
    """Return what the end has of the loss `before`, infinite if it blew up."""
    end = fmean(losses[-_LAST:])
    done = len(losses) == _ITERATIONS and math.isfinite(end)
    return 1 + (end - before) / scale if done else math.inf


def _scale(before: list[float], curves: Mapping[float, list[float]]) -> float:
    """Return what a fall is measured by: the loss before; of one that has no floor the largest.

    A fall by less than the first batches differ is none: it must be a tenth of this.
    """
    ends = [fmean(losses[-_LAST:]) for losses in curves.values()]
    lowest = min(filter(math.isfinite, ends), default=0.0)
    mean = fmean(before)
    if min(lowest, *before) >= 0:
        return max(mean, 1e-12)
    return max(mean - lowest, 10 * (max(before) - min(before)), 1e-12)


def _before(subject: TaskUnderTest) -> list[float]:
    """Return the losses of fresh weights on the first batches."""
    model, loss = subject.model(), subject.training(compile=False).loss
    given = islice(subject.batches(), _FIRST)
    return [loss(model(x), y).item() for x, y in given]


def _change(ratio: float) -> str:
    return f"{ratio - 1:+.0%}" if ratio < 10 else "blown up"
