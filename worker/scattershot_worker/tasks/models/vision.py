"""Networks for images, two of them for any rows of numbers: linear, mlp, cnn, resnet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor, nn

from scattershot_worker.tasks.models.layers import AsImages, conv, hidden_linear, output_linear


def linear(shape: Sequence[int], outputs: int, params: Mapping[str, Any]) -> nn.Sequential:
    """Return one layer from examples of `shape`, or flat ones, to [N, outputs]: the baseline.

    Reads no hyperparameters. Notes: linear-classify.
    """
    return nn.Sequential(nn.Flatten(), output_linear(prod(shape), outputs))


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


def cnn(shape: Sequence[int], classes: int, params: Mapping[str, Any]) -> nn.Sequential:
    """Return [conv, ReLU, pool] twice, then two layers, for images of 4×4 or larger.

    `shape` is (channels, height, width). Reads `channels` of the first convolution (default 16;
    the second has twice as many), `hidden` units (128) and their `dropout` (0). Notes: "Layer
    Patterns" in convolutional-networks.
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


class _Block(nn.Module):
    """Two convolutions with batch normalization, and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(conv(inputs, outputs, 3, stride, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(conv(outputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs)),
        )
        self.carry = (
            nn.Identity()
            if (inputs, stride) == (outputs, 1)
            else nn.Sequential(
                conv(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.body(x) + self.carry(x)
        return total.relu()


def resnet(shape: Sequence[int], classes: int, params: Mapping[str, Any]) -> nn.Sequential:
    """Return the residual network of He et al. (2016), section 4.2: 6n + 2 layers.

    `shape` is (channels, height, width). Reads `channels` of the first of three groups (default
    16; each later group has twice as many at half the size), `blocks` in each group (1: 8 layers)
    and the last layer's `dropout` (0). Where a group changes the shape, a 1×1 convolution carries
    the input (the paper's option B).
    """
    channels, blocks = int(params.get("channels", 16)), int(params.get("blocks", 1))
    modules: list[nn.Module] = [
        AsImages(shape),
        *(conv(shape[0], channels, 3, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
    ]
    size = channels
    for group in range(3):
        for block in range(blocks):
            outputs = channels * 2**group
            modules.append(_Block(size, outputs, stride=2 if group and not block else 1))
            size = outputs
    return nn.Sequential(
        *modules,
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Dropout(float(params.get("dropout", 0.0))),
        output_linear(size, classes),
    )
