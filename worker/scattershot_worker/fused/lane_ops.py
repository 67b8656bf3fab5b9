"""Owns the table of operations that know of lanes: what stands in for which of torch's functions.

What is not in the table, or does not fit what stands in it, is left to `vmap` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
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
    apply,
)


def _given(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _linear(given: dict[str, Any]) -> Tensor | None:
    return apply(Linear, given["input"], given["weight"], given.get("bias"))


def _conv2d(given: dict[str, Any]) -> Tensor | None:
    if given["input"].dim() != 4 or isinstance(given.get("padding", 0), str):
        return None
    how = (_pair(given.get(name, default)) for name, default in _CONV_HOW)
    about = (given["input"], given["weight"], given.get("bias"))
    return apply(Conv2d, *about, *how, given.get("groups", 1))


_CONV_HOW = (("stride", 1), ("padding", 0), ("dilation", 1))


def _layer_norm(given: dict[str, Any]) -> Tensor | None:
    w, b = given.get("weight"), given.get("bias")
    if len(given["normalized_shape"]) != 1 or w is None or b is None:
        return None
    return apply(LayerNorm, given["input"], w, b, given.get("eps", 1e-5))


def _batch_norm(given: dict[str, Any]) -> Tensor | None:
    if given["input"].dim() != 4 or given.get("weight") is None:
        return None
    names = ("input", "running_mean", "running_var", "weight", "bias")
    rest = (given.get("training", False), given.get("momentum", 0.1), given.get("eps", 1e-5))
    return apply(BatchNorm, *(given.get(name) for name in names), *rest)


def _group_norm(given: dict[str, Any]) -> Tensor | None:
    w, b = given.get("weight"), given.get("bias")
    if w is None or b is None:
        return None
    return apply(GroupNorm, given["input"], given["num_groups"], w, b, given.get("eps", 1e-5))


def _max_pool2d(given: dict[str, Any]) -> Tensor | None:
    if given.get("return_indices") or given["input"].dim() != 4:
        return None
    size = given["kernel_size"]
    rest = (given.get("padding", 0), given.get("dilation", 1), given.get("ceil_mode", False))
    return apply(MaxPool2d, given["input"], size, given.get("stride") or size, *rest)


def _attention(given: dict[str, Any]) -> Tensor | None:
    plain = not any(given.get(name) for name in ("dropout_p", "scale", "enable_gqa"))
    if given["query"].dim() != 4 or given.get("attn_mask") is not None or not plain:
        return None
    causal = given.get("is_causal", False)
    return apply(Attention, given["query"], given["key"], given["value"], causal)


_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_QKV = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")

#: torch function → (names of its arguments, what to call: None is answered where it does not fit)
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
    """Within it, what is in the table is done by it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the stand-in, if there is one and it fits."""
        kwargs = kwargs or {}
        if entry := LANE_OPS.get(func):
            names, stand_in = entry
            result = stand_in(_given(names, args, kwargs))
            if result is not None:
                return result
        return func(*args, **kwargs)
