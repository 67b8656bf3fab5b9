"""Owns the scores of (averaged) predictions against targets, on numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scattershot_common.errors import ScattershotError

Array = NDArray[Any]

#: A probability below this counts as this: a single sure mistake costs 27.6, not infinity.
LEAST_PROBABILITY = 1e-12


def accuracy(probabilities: Array, classes: Array) -> float:
    """Return the share of `classes` [N, ...] that `probabilities` [N, ..., C] put first."""
    return float((probabilities.argmax(axis=-1) == classes).mean())


def loss(probabilities: Array, classes: Array) -> float:
    """Return the mean negative log-likelihood of `classes` [N, ...] in `probabilities` [N, ..., C].

    In nats. Averaged members are averaged as probabilities, not as logits.
    """
    taken = np.take_along_axis(probabilities, classes[..., None].astype(np.intp), axis=-1)
    return float(-np.log(np.clip(taken, LEAST_PROBABILITY, 1.0), dtype=np.float64).mean())


def mse(values: Array, targets: Array) -> float:
    """Return the mean squared error of `values` [N, ...]."""
    return float(np.square(values - targets, dtype=np.float64).mean())


def mae(values: Array, targets: Array) -> float:
    """Return the mean absolute error of `values` [N, ...]."""
    return float(np.abs(values - targets, dtype=np.float64).mean())


def rmse(values: Array, targets: Array) -> float:
    """Return the root of the mean squared error of `values` [N, ...]."""
    return float(np.sqrt(mse(values, targets)))


class Metric(NamedTuple):
    """A score and its direction; `classes`: predictions have an axis more than the targets."""

    function: Callable[[Array, Array], float]
    larger_is_better: bool
    classes: bool


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, True, True),
    "loss": Metric(loss, False, True),
    "mse": Metric(mse, False, False),
    "mae": Metric(mae, False, False),
    "rmse": Metric(rmse, False, False),
}


def score(name: str, predictions: Array, targets: Array) -> float:
    """Return the score `name` of `predictions` against `targets`, in its own units.

    `predictions`: probabilities [N, ..., C] for "accuracy" and "loss", whose targets are classes
    [N, ...]; values for "mse", "mae" and "rmse", whose targets have the same shape or as many
    elements ([N] for [N, 1]). Raises `ScattershotError` for an unknown name and for shapes that do
    not fit.

    >>> score("accuracy", np.array([[0.9, 0.1], [0.6, 0.4]]), np.array([0, 1]))
    0.5
    """
    chosen = metric(name)
    shape = predictions.shape[:-1] if chosen.classes else predictions.shape
    if targets.size == 0 or targets.size != prod(shape) or len(targets) != len(predictions):
        form = "one more axis, the classes, than" if chosen.classes else "the shape of"
        raise ScattershotError(
            f"{name}: predictions of shape {predictions.shape} do not fit targets of shape"
            f" {targets.shape}; they need {form} the targets, and at least one row"
        )
    return chosen.function(predictions, targets.reshape(shape))


def metric(name: str) -> Metric:
    """Return the metric `name`; raises `ScattershotError` with the list of them."""
    if name not in METRICS:
        raise ScattershotError(f"no ensemble metric {name!r}; there are {', '.join(METRICS)}")
    return METRICS[name]
