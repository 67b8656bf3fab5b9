"""Metrics of (averaged) predictions: which one fits them, their form for it, and its value.

Predictions come from checkpoints of any task or train function; their shapes, types and values
tell what they are. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scattershot_common.errors import ScattershotError
from scattershot_common.objective import Objective
from scattershot_common.task.classification import IGNORED, class_axis

Array = NDArray[Any]

#: Smaller probabilities count as this one: a single confident mistake costs 27.6, not infinity.
MIN_PROBABILITY = 1e-12
_REMEDY = "override predictions(), or give other targets"


def accuracy(probabilities: Array, classes: Array) -> float:
    """Return the share of `classes` [N, ...] that `probabilities` [N, ..., C] put first."""
    return float((probabilities.argmax(axis=-1) == classes).mean())


def loss(probabilities: Array, classes: Array) -> float:
    """Return the mean negative log-likelihood of `classes` [N, ...] in `probabilities` [N, ..., C].

    In nats. Averaged members are averaged as probabilities, not as logits.
    """
    chosen = np.take_along_axis(probabilities, classes[..., None].astype(np.intp), axis=-1)
    return float(-np.log(np.clip(chosen, MIN_PROBABILITY, 1.0), dtype=np.float64).mean())


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
    """A metric and its goal; `classes`: predictions have one axis more than the targets."""

    function: Callable[[Array, Array], float]
    objective: Objective
    classes: bool


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, Objective("accuracy"), classes=True),
    "loss": Metric(loss, Objective("loss", "minimize"), classes=True),
    "mse": Metric(mse, Objective("mse", "minimize"), classes=False),
    "mae": Metric(mae, Objective("mae", "minimize"), classes=False),
    "rmse": Metric(rmse, Objective("rmse", "minimize"), classes=False),
}


def score(name: str, predictions: Array, targets: Array) -> float:
    """Return the metric `name` of `predictions` against `targets`, in its own units.

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


class AlignedPredictions(NamedTuple):
    """Predictions and targets as `score` takes them for one metric."""

    predictions: dict[int, Array]
    targets: Array


def fitting_metric(study_metric: str, predictions: Array, targets: Array) -> str:
    """Return the metric an ensemble is chosen by: the study's where it is known and fits.

    Otherwise accuracy for classes, else mse. Integer targets are classes where predictions have
    one axis more, or where all are 0 or 1, or -1 or 1; other integers are values.
    """
    own = study_metric.removeprefix("val_")
    if predictions.size != targets.size:
        classes = True
    elif targets.dtype.kind == "f":
        classes = own == "accuracy" and (_two_valued(targets) or _distributions(targets))
    else:
        classes = _two_valued(targets) and own not in ("mse", "mae", "rmse")
    if own in METRICS and METRICS[own].classes == classes:
        return own
    return "accuracy" if classes else "mse"


def align(name: str, predictions: dict[int, Array], targets: Array) -> AlignedPredictions:
    """Return predictions and targets as `score` takes them for the metric `name`.

    For classes: probabilities [M, C] and class numbers [M], without ignored targets.

    Raises:
        ScattershotError: the metric does not fit them; the message says what to do.
    """
    if not METRICS[name].classes or not targets.size or not predictions:
        return AlignedPredictions(predictions, targets)
    if _distributions(targets):
        return _classes(predictions, targets.argmax(axis=1))
    if next(iter(predictions.values())).size == targets.size:
        return _two_classes(predictions, targets)
    return _classes(predictions, targets)


def _classes(predictions: dict[int, Array], targets: Array) -> AlignedPredictions:
    shape = next(iter(predictions.values())).shape
    axis = class_axis(shape, targets.shape, second=False)
    if axis is None and targets.size * shape[-1] == np.prod(shape) and len(targets) == shape[0]:
        axis = -1  # as [N, C] for [N, 1]
    if axis is None:
        raise ScattershotError(
            f"no ensemble: predictions of shape {shape} do not fit targets of shape "
            f"{targets.shape}; they need one axis more, the classes: {_REMEDY}"
        )
    classes, flat = shape[axis], targets.reshape(-1).astype(np.float64)
    known = flat != IGNORED
    used = flat[known]
    _check_classes(used, classes)
    rows = {
        trial: np.moveaxis(array, axis, -1).reshape(-1, classes)[known]
        for trial, array in predictions.items()
    }
    return AlignedPredictions(rows, used.astype(np.intp))


def _check_classes(targets: Array, classes: int) -> None:
    if not targets.size:
        raise ScattershotError(f"no ensemble: all targets are {IGNORED}, which are left out")
    low, high = targets.min(), targets.max()
    if not (low >= 0 and high < classes and (targets == np.floor(targets)).all()):
        raise ScattershotError(
            f"no ensemble: targets from {low:g} to {high:g} are no numbers of the {classes} "
            f"classes predicted, 0 to {classes - 1}: count them from 0 in data() and give "
            f"{IGNORED} to those to be left out, or {_REMEDY}"
        )


def _two_classes(predictions: dict[int, Array], targets: Array) -> AlignedPredictions:
    """Return the probabilities of both classes; predictions are those of the second one."""
    if not all(_probabilities(array) for array in predictions.values()):
        raise ScattershotError(
            "no ensemble: one prediction for each target of two classes must be a probability, "
            "0 to 1: override predictions(), as by outputs.sigmoid()"
        )
    rows = {
        trial: np.stack([1 - array.reshape(-1), array.reshape(-1)], axis=-1)
        for trial, array in predictions.items()
    }
    return AlignedPredictions(rows, (targets.reshape(-1) > 0).astype(np.intp))


def _two_valued(targets: Array) -> bool:
    """Return whether targets are of two classes; floats only where both are among them."""
    values = {float(value) for value in np.unique(targets)[:3]}
    return values in ({0, 1}, {-1, 1}) or (targets.dtype.kind != "f" and values <= {0, 1})


def _distributions(targets: Array) -> bool:
    """Return whether targets [N, C] are probabilities of classes, as soft labels are."""
    if targets.ndim != 2 or targets.shape[1] < 2 or targets.dtype.kind != "f":
        return False
    return bool((targets >= 0).all() and np.allclose(targets.sum(axis=1), 1, atol=1e-3))


def _probabilities(values: Array) -> bool:
    """Return whether all finite values are between 0 and 1."""
    finite = values[np.isfinite(values)]
    return bool(((finite >= 0) & (finite <= 1)).all())
