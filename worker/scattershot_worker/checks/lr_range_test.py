"""The learning-rate range test: one run in which the rate rises from 1e-6 to 10.

Source: Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3.
"""

from __future__ import annotations

import math
from itertools import islice

import numpy as np

from scattershot_common.task.check_result import CheckResult
from scattershot_worker.checks.task_under_test import TaskUnderTest, set_rate

_FROM, _TO, _STEPS = 1e-6, 10.0, 210
#: Width of the Gaussian that smooths the losses, in steps: 30 steps are one power of ten.
_WIDTH = 6.0
#: The run ends when the loss has risen by this many times the first loss.
_DIVERGED = 3.0
#: The loss must fall by this share for its curve to be read.
_MIN_FALL = 0.05
#: Rates are safe until the loss has risen again by this share of its fall.
_RISE = 0.1
#: The least width of a suggested range, in powers of ten.
_DECADES = 1.5


def check(under_test: TaskUnderTest) -> CheckResult:
    """Sweep the rate once over seven powers of ten, and read the curve of the loss.

    The steepest rate is where the smoothed loss falls fastest over the rate's logarithm, the
    largest safe one the last before it rises again. What is suggested to search reaches from a
    tenth of the steepest to the largest safe rate.
    """
    rates, losses = _sweep(under_test)
    if not len(losses):
        return CheckResult(
            "rates",
            "fail",
            "the loss of the initial weights is not a number",
            "No rate can be tried.",
            "See `data` and `initial_loss`.",
        )
    # clipped: a diverged end would distort the smoothed losses before it
    smooth = smoothed(losses.clip(max=2 * losses[0] - losses.min()))
    numbers = {"rates": rates.tolist(), "losses": losses.tolist(), "smoothed": smooth.tolist()}
    bottom = int(smooth.argmin())
    fall = (smooth[0] - smooth[bottom]) / max(abs(smooth[0]), 1e-12)
    if bottom < 2 or fall < _MIN_FALL:
        return CheckResult(
            "rates",
            "warn",
            f"from {_FROM:g} to {_TO:g} the loss falls by no more than {max(fall, 0):.1%}",
            "The loss clearly falls at no rate of the sweep.",
            "See `overfit` and `learning`; a larger batch_size makes the curve less noisy.",
            numbers=numbers,
        )
    slope = np.gradient(smooth[: bottom + 1], np.log10(rates[: bottom + 1]))
    steepest = float(rates[slope.argmin()])
    safe = float(rates[_last_safe(smooth, bottom)])
    low = _round(min(steepest / 10, safe / 10**_DECADES))
    high = max(_round(safe), _round(steepest))
    line = f"lr = {{ loguniform = [{low:g}, {high:g}] }}"
    numbers |= {"steepest": steepest, "largest_safe": safe, "suggested": [low, high]}
    numbers["line"] = line
    details = (
        f"for [space] in the study file:  {line}",
        *_compared_with_space(under_test, low, high),
    )
    return CheckResult(
        "rates",
        "pass",
        f"steepest at {steepest:.2g}, safe up to {safe:.2g}",
        "Below, training is slow; above, it is unstable.",
        details=details,
        numbers=numbers,
    )


def _sweep(under_test: TaskUnderTest) -> tuple[np.ndarray, np.ndarray]:
    """Return the rates and the loss of each step's batch before the step, [S] each."""
    rates = np.geomspace(_FROM, _TO, _STEPS)
    training = under_test.training(compile=False)  # which changes no number
    losses: list[float] = []
    set_rate(training.optimizer, rates[1])
    for loss in islice(under_test.train(training, under_test.batches()), _STEPS):
        if not math.isfinite(loss):
            break
        losses.append(loss)
        if loss > losses[0] + _DIVERGED * abs(losses[0]):
            break
        # a step's loss is that before its update: it belongs to the rate of the step before
        set_rate(training.optimizer, rates[min(len(losses) + 1, _STEPS - 1)])
    return rates[: len(losses)], np.array(losses)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """Return the losses averaged with Gaussian weights; unlike a running mean they do not lag.

    >>> smoothed(np.array([1.0, 1.0, 1.0]))
    array([1., 1., 1.])
    """
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / _WIDTH) ** 2)
    result: np.ndarray = weights @ losses / weights.sum(1)
    return result


def _last_safe(smooth: np.ndarray, bottom: int) -> int:
    """Return the last step from the bottom on before the loss rises again."""
    limit = smooth[bottom] + _RISE * (smooth[0] - smooth[bottom])
    above = np.flatnonzero(smooth[bottom:] > limit)
    return bottom + int(above[0]) - 1 if len(above) else len(smooth) - 1


def _round(rate: float) -> float:
    """Return a rate rounded to 1, 2, 3 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rate))
    digit = min((1, 2, 3, 5, 10), key=lambda digit: abs(math.log(rate / (digit * power))))
    return float(f"{digit * power:.0e}")


def _compared_with_space(under_test: TaskUnderTest, low: float, high: float) -> tuple[str, ...]:
    """Return a line if the study's own range of `lr` differs much from the one suggested."""
    axis = under_test.axis("lr")
    if axis is None or axis.kind == "choice":
        return ()
    searched = f"the study searches [{axis.low:g}, {axis.high:g}]"
    if axis.high < low or axis.low > high:
        return (f"{searched}: all of it is too {'low' if axis.high < low else 'high'}",)
    outside = []
    if axis.low < low / 10:
        outside.append("far below")
    if axis.high > high * 10:
        outside.append("far above")
    return (f"{searched}: part of it lies {' and '.join(outside)}",) if outside else ()
