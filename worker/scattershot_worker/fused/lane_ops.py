"""Replacements of torch functions inside `vmap`: layers of all lanes, dropout, cross-entropy.

`LANE_OPS` says which function is replaced by what. A function that is not in the table, or whose
arguments do not fit its replacement, is left to `vmap` itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from scattershot_worker.fused.lane_functions import (
    Attention,
    BatchNorm,
    Conv2d,
    GroupNorm,
    LayerNorm,
    Linear,
    MaxPool2d,
    all_lanes_first,
    apply,
    no_backward,
)
from scattershot_worker.training import dropout


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _linear(arguments: dict[str, Any]) -> Tensor | None:
    return apply(Linear, arguments["input"], arguments["weight"], arguments.get("bias"))


def _conv2d(arguments: dict[str, Any]) -> Tensor | None:
    if arguments["input"].dim() != 4 or isinstance(arguments.get("padding", 0), str):
        return None
    tensors = (arguments["input"], arguments["weight"], arguments.get("bias"))
    options = (("stride", 1), ("padding", 0), ("dilation", 1))
    pairs = (_pair(arguments.get(name, default)) for name, default in options)
    return apply(Conv2d, *tensors, *pairs, arguments.get("groups", 1))


def _layer_norm(arguments: dict[str, Any]) -> Tensor | None:
    w, b = arguments.get("weight"), arguments.get("bias")
    if len(arguments["normalized_shape"]) != 1 or w is None or b is None:
        return None
    return apply(LayerNorm, arguments["input"], w, b, arguments.get("eps", 1e-5))


def _batch_norm(arguments: dict[str, Any]) -> Tensor | None:
    if arguments["input"].dim() != 4 or arguments.get("weight") is None:
        return None
    names = ("input", "running_mean", "running_var", "weight", "bias")
    options = (("training", False), ("momentum", 0.1), ("eps", 1e-5))
    values = (arguments.get(name, default) for name, default in options)
    return apply(BatchNorm, *(arguments.get(name) for name in names), *values)


def _group_norm(arguments: dict[str, Any]) -> Tensor | None:
    w, b = arguments.get("weight"), arguments.get("bias")
    if w is None or b is None:
        return None
    return apply(
        GroupNorm, arguments["input"], arguments["num_groups"], w, b, arguments.get("eps", 1e-5)
    )


def _max_pool2d(arguments: dict[str, Any]) -> Tensor | None:
    if arguments.get("return_indices") or arguments["input"].dim() != 4:
        return None
    size = arguments["kernel_size"]
    options = (("padding", 0), ("dilation", 1), ("ceil_mode", False))
    values = (arguments.get(name, default) for name, default in options)
    return apply(MaxPool2d, arguments["input"], size, arguments.get("stride") or size, *values)


def _attention(arguments: dict[str, Any]) -> Tensor | None:
    plain = not any(arguments.get(name) for name in ("dropout_p", "scale", "enable_gqa"))
    if arguments["query"].dim() != 4 or arguments.get("attn_mask") is not None or not plain:
        return None
    causal = arguments.get("is_causal", False)
    return apply(Attention, arguments["query"], arguments["key"], arguments["value"], causal)


_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_QKV = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")

#: torch function → (names of its arguments, its replacement: returns None where it does not fit)
LANE_OPS: dict[Any, tuple[tuple[str, ...], Callable[[dict[str, Any]], Tensor | None]]] = {
    F.linear: (("input", "weight", "bias"), _linear),
    torch.conv2d: (_CONV, _conv2d),
    F.layer_norm: (("input", "normalized_shape", "weight", "bias", "eps"), _layer_norm),
    F.batch_norm: (_NORM, _batch_norm),
    F.group_norm: (("input", "num_groups", "weight", "bias", "eps"), _group_norm),
    F.max_pool2d: (_POOL, _max_pool2d),
    torch.max_pool2d: (_POOL, _max_pool2d),
    F.scaled_dot_product_attention: (_QKV, _attention),
}


class LaneOps(TorchFunctionMode):
    """Within this context, the functions in the table are replaced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the replacement, if there is one and it fits."""
        kwargs = kwargs or {}
        if entry := LANE_OPS.get(func):
            names, replacement = entry
            result = replacement({**dict(zip(names, args, strict=False)), **kwargs})
            if result is not None:
                return result
        return func(*args, **kwargs)


class _DropoutLanes(Function):
    """x and random [K, …], threshold and scale [K]; see `dropout.factors`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, random: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 1))
        factors = dropout.factors(x, random, threshold.view(shape), scale.view(shape))
        ctx.save_for_backward(factors)
        return x * factors

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        (factors,) = ctx.saved_tensors
        return grad * factors, None, None, None


class Dropout(Function):
    """Drop elements of one lane, as `dropout.apply` does."""

    setup_context = staticmethod(no_backward)

    @staticmethod
    def forward(x: Tensor, random: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
        """Return x with elements dropped."""
        return dropout.apply(x, random, threshold, scale)

    @staticmethod
    def vmap(info: Any, dims: Any, *tensors: Tensor) -> tuple[Tensor, int]:
        """Drop elements of all lanes."""
        return apply(_DropoutLanes, *all_lanes_first(info.batch_size, tensors, dims)), 0


class CrossEntropy(Function):
    """logits [K, B, C], classes [K, B], label smoothing [K] → mean loss [K].

    The loss of `torch.nn.functional.cross_entropy`, with a smoothing of its own for every lane.
    Classes are moved before examples: the native kernel is slow over a short last dimension.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, classes: Tensor, smoothing: Tensor) -> Tensor:
        """Return the losses."""
        logs = logits.transpose(1, 2).contiguous().log_softmax(1)
        smoothing = smoothing.view(-1, 1, 1)
        targets = (smoothing / logs.shape[1]).expand(logs.shape).contiguous()
        index = classes.unsqueeze(1)
        targets = targets.scatter_add(1, index, (1 - smoothing).expand(index.shape))
        ctx.save_for_backward(logs, targets)
        return (logs * targets).sum((1, 2)) / -logs.shape[2]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradient of the logits."""
        (grad,) = grads
        logs, targets = ctx.saved_tensors
        share = (grad / logs.shape[2]).view(-1, 1, 1)
        return ((logs.exp() - targets) * share).transpose(1, 2), None, None
