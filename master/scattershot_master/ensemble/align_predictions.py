"""Owns what saved predictions and targets mean, and brings them to the form that scores take.

Checkpoints come from any task or train function: shapes, types and values tell what they hold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scattershot_common.errors import ScattershotError
from scattershot_common.task.classification import IGNORED, class_axis
from scattershot_master.ensemble.metrics import METRICS, Array

_REMEDY = "override predictions(), or give other targets"


class AlignedPredictions(NamedTuple):
    """Predictions and targets as `metrics.score` takes them for one score."""

    predictions: dict[int, Array]
    targets: Array


def score_name(study_metric: str, predictions: Array, targets: Array) -> str:
    """Return the score an ensemble is chosen by: the study's metric where it is known and fits.

    Otherwise accuracy for classes, else mse. Integer targets are classes where predictions have
    an axis more than they, or where all are 0 or 1, or -1 or 1; those of other numbers are values.
    """
    asked = study_metric.removeprefix("val_")
    if predictions.size != targets.size:
        classes = True
    elif targets.dtype.kind == "f":
        classes = asked == "accuracy" and (_two_valued(targets) or _distributions(targets))
    else:
        classes = _two_valued(targets) and asked not in ("mse", "mae", "rmse")
    if asked in METRICS and METRICS[asked].classes == classes:
        return asked
    return "accuracy" if classes else "mse"


def arrange(name: str, predictions: dict[int, Array], targets: Array) -> AlignedPredictions:
    """Return predictions and targets as the score `name` takes them.

    For classes: probabilities [M, C] and class numbers [M], without those to be left out.

    Raises:
        ScattershotError: they are nothing that it is made for; the message says what to do.
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
    _refuse_no_classes(used, classes)
    rows = {
        trial: np.moveaxis(one, axis, -1).reshape(-1, classes)[known]
        for trial, one in predictions.items()
    }
    return AlignedPredictions(rows, used.astype(np.intp))


def _refuse_no_classes(targets: Array, classes: int) -> None:
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
    """Return both probabilities of each target, of which predictions give the second one's."""
    if not all(_within(one) for one in predictions.values()):
        raise ScattershotError(
            "no ensemble: one prediction for each target of two classes must be a probability, "
            "0 to 1: override predictions(), as by outputs.sigmoid()"
        )
    rows = {
        trial: np.stack([1 - one.reshape(-1), one.reshape(-1)], axis=-1)
        for trial, one in predictions.items()
    }
    return AlignedPredictions(rows, (targets.reshape(-1) > 0).astype(np.intp))


def _two_valued(targets: Array) -> bool:
    """Return whether targets are of two classes; floats only where both are among them."""
    found = {float(one) for one in np.unique(targets)[:3]}
    return found in ({0, 1}, {-1, 1}) or (targets.dtype.kind != "f" and found <= {0, 1})


def _distributions(targets: Array) -> bool:
    """Return whether targets [N, C] are probabilities of classes, as soft labels are."""
    if targets.ndim != 2 or targets.shape[1] < 2 or targets.dtype.kind != "f":
        return False
    return bool((targets >= 0).all() and np.allclose(targets.sum(axis=1), 1, atol=1e-3))


def _within(values: Array) -> bool:
    finite = values[np.isfinite(values)]
    return bool(((finite >= 0) & (finite <= 1)).all())
