"""Owns the small residual network of He et al. (2016), section 4.2: 6n + 2 layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from scattershot_worker.tasks.models.layers import AsImages, conv, output_linear


class _Block(nn.Module):
    """Two convolutions with batch normalization, around which the input is carried."""

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
    """Return the network for images of `shape` (channels, height, width).

    Reads `channels` of the first of three groups (default 16; each later one has twice as many at
    half the size), `blocks` in each group (1: 8 layers) and the last layer's `dropout` (0). Where
    a group changes the shape, a 1×1 convolution carries the input (the paper's option B).
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
