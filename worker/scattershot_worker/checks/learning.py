"""Check that the loss falls on the full training part within a hundred iterations.

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
#: The last losses, whose mean is compared with that of the first batches at initial weights.
_LAST, _FIRST = 20, 5
#: This ratio or less: the loss falls, or falls slowly.
_FALLS, _SLOWLY = 0.9, 0.98
#: A little weight decay, as in the recipe.
_DECAY = 1e-4


def check(under_test: TaskUnderTest) -> CheckResult:
    """Train for a hundred iterations at each of four learning rates; report where the loss falls.

    The steps are the trainer's own: dropout, augmentation, precision and the like are as the
    hyperparameters say. The weight decay is at most 1e-4, and nothing is compiled.
    """
    curves = {rate: _losses(under_test, rate) for rate in _RATES}
    before = _before(under_test)
    scale = _scale(before, curves)
    ratios = {rate: _ratio(losses, fmean(before), scale) for rate, losses in curves.items()}
    falls = [rate for rate, ratio in ratios.items() if ratio <= _FALLS]
    best = min(ratios, key=lambda rate: ratios[rate])
    lines = ", ".join(f"{_change(ratio)} at {rate:g}" for rate, ratio in ratios.items())
    found = f"loss after {_ITERATIONS} iterations: {lines}"
    numbers = {
        "iterations": _ITERATIONS,
        "batch_size": under_test.batch_size,
        "ratios": [[rate, ratio] for rate, ratio in ratios.items()],
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
    if ratios[best] <= _SLOWLY:
        return CheckResult(
            "learning",
            "warn",
            found,
            f"The loss falls slowly, at best at {best:g}.",
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


def _losses(under_test: TaskUnderTest, rate: float) -> list[float]:
    """Return the loss of each iteration's batch; fewer if it diverged."""
    changes = {
        "lr": rate,
        "weight_decay": min(under_test.params.get("weight_decay", _DECAY), _DECAY),
    }
    training = under_test.training(**changes, compile=False)  # which changes no number
    set_rate(training.optimizer, rate)
    return [*islice(under_test.train(training, under_test.batches()), _ITERATIONS)]


def _ratio(losses: list[float], before: float, scale: float) -> float:
    """Return the final loss as a share of the loss `before`, infinite if it diverged."""
    end = fmean(losses[-_LAST:])
    done = len(losses) == _ITERATIONS and math.isfinite(end)
    return 1 + (end - before) / scale if done else math.inf


def _scale(before: list[float], curves: Mapping[float, list[float]]) -> float:
    """Return the scale of a fall: the loss before; the largest fall if losses can be negative.

    The first batches must differ by at most a tenth of it, or falls would be noise.
    """
    ends = [fmean(losses[-_LAST:]) for losses in curves.values()]
    lowest = min(filter(math.isfinite, ends), default=0.0)
    mean = fmean(before)
    if min(lowest, *before) >= 0:
        return max(mean, 1e-12)
    return max(mean - lowest, 10 * (max(before) - min(before)), 1e-12)


def _before(under_test: TaskUnderTest) -> list[float]:
    """Return the losses of the initial weights on the first batches."""
    model, loss = under_test.model(), under_test.training(compile=False).loss
    first_batches = islice(under_test.batches(), _FIRST)
    return [loss(model(x), y).item() for x, y in first_batches]


def _change(ratio: float) -> str:
    return f"{ratio - 1:+.0%}" if ratio < 10 else "diverged"
