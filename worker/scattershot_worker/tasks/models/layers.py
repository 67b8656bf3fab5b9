"""Layers of the built-in networks, with their initial weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


def hidden_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer before a ReLU, initialized as by He et al. (2015), biases 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def conv(inputs: int, outputs: int, size: int, stride: int = 1, *, bias: bool = True) -> nn.Conv2d:
    """Return a convolution before a ReLU, padded so that stride 1 keeps height and width."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def output_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return the output layer, with weights so small that the first loss is that of chance.

    Notes: "Weight Initialization" in neural-networks-2, "Look for correct loss at chance
    performance" in neural-networks-3.
    """
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer


class AsImages(nn.Module):
    """Reshapes rows of pixels [N, C·H·W] to [N, C, H, W]; images stay as they are."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of `x`."""
        return x.reshape(x.shape[0], *self.shape)
