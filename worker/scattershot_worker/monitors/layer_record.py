"""The record of a model's layers after an epoch, as `layers.json` has it; see docs/diagnosis.md."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NotRequired, TypedDict

import numpy as np
from torch import Tensor

from scattershot_worker.monitors import sampling
from scattershot_worker.monitors.activations import ActivationRecord
from scattershot_worker.monitors.updates import Norms, ParameterRecord, rounded

#: Tiles of the first layer, at most, and the largest side of a tile, in pixels.
TILES, SIDE = 16, 64


class Tiles(TypedDict):
    """Images of uint8 pixels in base64; `shape` is [tiles, height, width, channels]."""

    shape: list[int]
    pixels: str


class LayerRecord(TypedDict):
    """The layers of a model after an epoch; `val_examples` is the number of examples validated."""

    epoch: int
    val_examples: int
    noise: float
    parameters: list[ParameterRecord]
    activations: list[ActivationRecord]
    initial_activations: NotRequired[list[ActivationRecord]]
    picture: NotRequired[Tiles]


def layer_record(
    epoch: int,
    weights: Iterable[Tensor],
    norms: Sequence[Norms],
    histograms: Mapping[str, list[int]],
    losses: Sequence[float],
    activations: list[ActivationRecord],
    initial_activations: list[ActivationRecord],
    examples: int,
) -> LayerRecord:
    """Return the record of an epoch.

    `weights` are the model's parameters in its order, `losses` those of the epoch's steps,
    `initial_activations` are empty unless they were recorded, and `examples` is the number of
    examples of the validation part.
    """
    record: LayerRecord = {
        "epoch": epoch,
        "val_examples": examples,
        "noise": loss_noise(losses),
        "parameters": [norm.record(histograms.get(norm.name)) for norm in norms],
        "activations": activations,
    }
    if initial_activations:
        record["initial_activations"] = initial_activations
    if sampling.has_tiles(epoch) and (tiles := first_layer_tiles(weights)):
        record["picture"] = tiles
    return record


def loss_noise(losses: Sequence[float]) -> float:
    """Return how much the loss varies from step to step, as a share of its mean.

    The root of half the mean square of the steps' differences: the standard deviation, were there
    no trend (von Neumann, 1941).

    >>> loss_noise([1.0, 1.0, 1.0]), loss_noise([1.5, 0.5, 1.5, 0.5])
    (0.0, 0.707107)
    """
    mean = math.fsum(losses) / max(len(losses), 1)
    if len(losses) < 2 or not math.isfinite(mean) or mean == 0:
        return 0.0
    squares = [(b - a) ** 2 for a, b in pairwise(losses)]
    return rounded(math.sqrt(math.fsum(squares) / len(squares) / 2) / abs(mean))


def first_layer_tiles(parameters: Iterable[Tensor]) -> Tiles | None:
    """Return a model's first weights as tiles, one per unit; None if its inputs are no images.

    A conv layer's weights must have 1 or 3 channels and be at least 3×3; a linear layer's inputs
    must be one square, or three (8×8, 28×28, 3×32×32). CS231n, "First-layer visualizations":
    noisy tiles show a network that has not converged, a bad learning rate or too little
    regularization; smooth and diverse ones that training goes well.
    """
    for parameter in parameters:
        if parameter.dim() > 1:
            pixels = _pixels(parameter.detach()[:TILES])
            if pixels is None:
                return None
            text = base64.b64encode(pixels.tobytes()).decode()
            return {"shape": list(pixels.shape), "pixels": text}
    return None


def _pixels(weight: Tensor) -> np.ndarray | None:
    """Return uint8 [tiles, height, width, channels], each tile from 0 to 255, or None."""
    if weight.dim() == 4:
        channels, height, width = weight.shape[1:]
    elif weight.dim() == 2:
        inputs = weight.shape[1]
        channels = next((c for c in (1, 3) if math.isqrt(inputs // c) ** 2 * c == inputs), 0)
        height = width = math.isqrt(inputs // channels) if channels else 0
    else:
        return None
    if channels not in (1, 3) or not (3 <= height <= SIDE and 3 <= width <= SIDE):
        return None
    tiles = weight.float().cpu().numpy().reshape(len(weight), -1)
    tiles = np.where(np.isfinite(tiles), tiles, 0)
    tiles -= tiles.min(axis=1, keepdims=True)
    span = tiles.max(axis=1, keepdims=True)
    tiles *= 255 / np.where(span > 0, span, 1)
    pixels: np.ndarray = np.rint(tiles).astype(np.uint8)
    return pixels.reshape(len(weight), channels, height, width).transpose(0, 2, 3, 1)
