"""Owns initialization by name: what a model's weights are drawn from, biases at zero.

Notes: "Weight Initialization" in neural-networks-2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def _he(weight: Tensor) -> None:
    """Draw for ReLU: deviation sqrt(2 / inputs) (He et al. 2015)."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _xavier(weight: Tensor) -> None:
    """Draw for tanh: variance 2 / (inputs + outputs) (Glorot and Bengio 2010)."""
    nn.init.xavier_normal_(weight)


def _normal(weight: Tensor) -> None:
    """Draw small numbers of deviation 0.01, which only shallow networks can learn from."""
    nn.init.normal_(weight, std=0.01)


INITIALIZATIONS: dict[str, Callable[[Tensor], None]] = {
    "he": _he,
    "xavier": _xavier,
    "normal": _normal,
}
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def initialize(model: nn.Module, name: str) -> None:
    """Draw the weights of linear and convolutional layers anew, and set their biases to zero.

    Raises KeyError for a name that is none of `INITIALIZATIONS`.
    """
    draw = INITIALIZATIONS[name]
    for module in model.modules():
        if isinstance(module, _LAYERS):
            draw(module.weight)
            if module.bias is not None:
                module.bias.zero_()
