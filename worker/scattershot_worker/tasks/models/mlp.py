"""Owns the fully connected network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import nn

from scattershot_worker.tasks.models.layers import hidden_linear


def mlp(shape: Sequence[int], outputs: int, params: Mapping[str, Any]) -> nn.Sequential:
    """Return `layers` hidden layers of `hidden` units with ReLU and `dropout`, He-initialized.

    Takes examples of `shape`, in this shape or flat, to [N, outputs]. Defaults: 1 layer of 128
    units, no dropout. Biases start at zero (notes: "Weight Initialization" in neural-networks-2).
    """
    width, layers = int(params.get("hidden", 128)), int(params.get("layers", 1))
    dropout = float(params.get("dropout", 0.0))
    modules: list[nn.Module] = [nn.Flatten()]
    size = prod(shape)
    for _ in range(layers):
        modules += [hidden_linear(size, width), nn.ReLU()]
        if dropout > 0:
            modules.append(nn.Dropout(dropout))
        size = width
    return nn.Sequential(*modules, hidden_linear(size, outputs))
