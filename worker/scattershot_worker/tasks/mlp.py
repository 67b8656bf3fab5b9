"""Owns the fully connected network the built-in image tasks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def mlp(inputs: int, classes: int, params: Mapping[str, Any]) -> nn.Sequential:
    """Return `layers` hidden layers of `hidden` units with ReLU and `dropout`, He-initialized.

    Takes inputs of any shape [N, …] with `inputs` values each. Defaults: 1 layer of 128 units,
    no dropout. Biases start at zero (notes: "Weight Initialization" in neural-networks-2).
    """
    width, layers = int(params.get("hidden", 128)), int(params.get("layers", 1))
    dropout = float(params.get("dropout", 0.0))
    modules: list[nn.Module] = [nn.Flatten()]
    size = inputs
    for _ in range(layers):
        modules += [_linear(size, width), nn.ReLU()]
        if dropout > 0:
            modules.append(nn.Dropout(dropout))
        size = width
    return nn.Sequential(*modules, _linear(size, classes))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
