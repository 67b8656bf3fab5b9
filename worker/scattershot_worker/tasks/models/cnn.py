"""Owns the small convolutional network of the notes: [conv, ReLU, pool] twice, then two layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from scattershot_worker.tasks.models.layers import AsImages, conv, hidden_linear, output_linear


def cnn(shape: Sequence[int], classes: int, params: Mapping[str, Any]) -> nn.Sequential:
    """Return the network for images of `shape` (channels, height, width), 4×4 or larger.

    Reads `channels` of the first convolution (default 16; the second has twice as many), `hidden`
    units (128) and their `dropout` (0). Notes: "Layer Patterns" in convolutional-networks.
    """
    depth, height, width = shape
    channels, hidden = int(params.get("channels", 16)), int(params.get("hidden", 128))
    return nn.Sequential(
        AsImages(shape),
        *(conv(depth, channels, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(conv(channels, 2 * channels, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        hidden_linear(2 * channels * (height // 4) * (width // 4), hidden),
        nn.ReLU(),
        nn.Dropout(float(params.get("dropout", 0.0))),
        output_linear(hidden, classes),
    )
