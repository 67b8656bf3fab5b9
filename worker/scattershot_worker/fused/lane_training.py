"""Owns what a training step does for each lane by itself: its dropout, its smoothed loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from scattershot_worker.fused.lane_functions import apply, fronts, never
from scattershot_worker.training import dropout


class _DropoutLanes(Function):
    """x and random [K, …], threshold and scale [K]; see `dropout.apply`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, random: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
        each = (-1, *[1] * (x.dim() - 1))
        factors = dropout.factors(x, random, threshold.view(each), scale.view(each))
        ctx.save_for_backward(factors)
        return x * factors

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        (factors,) = ctx.saved_tensors
        return grad * factors, None, None, None


class Dropout(Function):
    """Drop elements of one lane, as `dropout.apply` does."""

    setup_context = staticmethod(never)

    @staticmethod
    def forward(x: Tensor, random: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
        """Return x with elements dropped."""
        return dropout.apply(x, random, threshold, scale)

    @staticmethod
    def vmap(info: Any, dims: Any, *tensors: Tensor) -> tuple[Tensor, int]:
        """Do it for all lanes."""
        return apply(_DropoutLanes, *fronts(info.batch_size, tensors, dims)), 0


class CrossEntropy(Function):
    """logits [K, B, C], classes [K, B], label smoothing [K] → mean loss [K].

    The loss of `torch.nn.functional.cross_entropy`, with a smoothing of its own for every lane.
    Classes come before examples inside: over a last dimension of a few the native kernel is slow.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor, smoothing: Tensor) -> Tensor:
        """Return the losses."""
        logs = logits.transpose(1, 2).contiguous().log_softmax(1)
        smoothing = smoothing.view(-1, 1, 1)
        wanted = (smoothing / logs.shape[1]).expand(logs.shape).contiguous()
        index = classes.unsqueeze(1)
        wanted = wanted.scatter_add(1, index, (1 - smoothing).expand(index.shape))
        ctx.save_for_backward(logs, wanted)
        return (logs * wanted).sum((1, 2)) / -logs.shape[2]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradient of the logits."""
        (grad,) = grads
        logs, wanted = ctx.saved_tensors
        share = (grad / logs.shape[2]).view(-1, 1, 1)
        return ((logs.exp() - wanted) * share).transpose(1, 2), None, None
