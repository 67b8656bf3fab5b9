"""Owns operations that know of lanes: what `vmap` would do slowly, as one kernel over all lanes.

Inside `vmap` a tensor has its lanes in a dimension that only `vmap` sees. Each operation here is an
`autograd.Function` whose `vmap` rule brings that dimension to where one native kernel takes it:
matrix products of lanes become batched products, channels of lanes become channels of a grouped
convolution. What is not in the table is left to `vmap` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from scattershot_worker import dropout

_Dim = int | None
#: Multiply-adds of one lane's convolution up to which lanes are grouped, not gone through in turn.
_GROUPED = 1 << 18
#: Positions up to which attention is two batched products; beyond, the native kernel is faster.
_SHORT = 64


def _front(tensor: Tensor, dim: _Dim, lanes: int) -> Tensor:
    """Return a tensor with its lanes first, the same for all where it has none."""
    return (
        tensor.unsqueeze(0).expand(lanes, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    )


def apply(function: type[Function], *arguments: Any) -> Tensor:
    """Apply an autograd function, whose result is a tensor."""
    result: Tensor = function.apply(*arguments)
    return result


def _never(ctx: Any, inputs: Any, output: Any) -> None:
    raise RuntimeError("a lane operation was differentiated outside vmap")


class _LinearLanes(Function):
    """x [K, M, I] · w [K, O, I]ᵀ + b [K, O] → [K, M, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.has_bias = b is not None
        turned = w.transpose(1, 2)
        return torch.bmm(x, turned) if b is None else torch.baddbmm(b.unsqueeze(1), x, turned)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, w = ctx.saved_tensors
        return (
            torch.bmm(grad, w) if ctx.needs_input_grad[0] else None,
            torch.bmm(grad.transpose(1, 2), x),
            grad.sum(1) if ctx.has_bias else None,
        )


class _Linear(Function):
    setup_context = staticmethod(_never)

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.linear(x, w, b)

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, int]:
        lanes = info.batch_size
        x, w = _front(x, dims[0], lanes), _front(w, dims[1], lanes)
        b = None if b is None else _front(b, dims[2], lanes)
        flat = x.unsqueeze(1) if x.dim() == 2 else x.reshape(lanes, -1, x.shape[-1])
        y = apply(_LinearLanes, flat, w, b)
        return y.view(*x.shape[:-1], y.shape[-1]), 0


class _ConvInTurn(Function):
    """One native convolution per lane: x [K, B, C, H, W], w [K, O, C, h, w], b [K, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, *how: Any) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.how = how
        biases = [None] * len(x) if b is None else b.unbind(0)
        outs = [torch.conv2d(*one, *how) for one in zip(x, w, biases, strict=True)]
        return torch.stack(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, w = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        wanted = [ctx.needs_input_grad[0], True, ctx.needs_input_grad[2]]
        rest = ([w.shape[1]], stride, padding, dilation, False, [0, 0], groups, wanted)
        each = [
            torch.ops.aten.convolution_backward(g, one, weight, *rest)
            for g, one, weight in zip(grad, x, w, strict=True)
        ]
        stacked = [
            torch.stack([lane[i] for lane in each]) if needed else None
            for i, needed in enumerate(wanted)
        ]
        return (*stacked, None, None, None, None)


class _Conv2d(Function):
    setup_context = staticmethod(_never)

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor | None, *how: Any) -> Tensor:
        return F.conv2d(x, w, b, *how)

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: Tensor, w: Tensor, b: Tensor | None, *how: Any
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        w = _front(w, dims[1], lanes)
        b = None if b is None else _front(b, dims[2], lanes)
        batch, channels, height, width = (
            x.shape if dims[0] is None else x.movedim(dims[0], 0).shape[1:]
        )
        outs = w.shape[1]
        if height * width * batch * max(outs, channels) > _GROUPED:
            return apply(_ConvInTurn, _front(x, dims[0], lanes), w, b, *how), 0
        stride, padding, dilation, groups = how
        x = _second(x, dims[0], lanes)
        grouped = x.reshape(batch, lanes * channels, height, width)
        y = F.conv2d(
            grouped.contiguous(memory_format=torch.channels_last),
            w.reshape(lanes * outs, *w.shape[2:]),
            None if b is None else b.reshape(-1),
            stride,
            padding,
            dilation,
            groups * lanes,
        )
        return y.view(batch, lanes, outs, *y.shape[2:]), 1


def _second(x: Tensor, dim: _Dim, lanes: int) -> Tensor:
    """Return a tensor with its examples first and its lanes second."""
    if dim is not None:
        return x.movedim(dim, 1)
    return x.unsqueeze(1).expand(x.shape[0], lanes, *x.shape[1:])


class _MaxPool2d(Function):
    setup_context = staticmethod(_never)

    @staticmethod
    def forward(x: Tensor, *how: Any) -> Tensor:
        pooled: Tensor = F.max_pool2d(x, *how)
        return pooled

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor, *how: Any) -> tuple[Tensor, int]:
        if dims[0] == 1:  # as the convolution before it leaves them
            y = F.max_pool2d(x.reshape(x.shape[0], -1, *x.shape[3:]), *how)
            return y.view(y.shape[0], info.batch_size, -1, *y.shape[2:]), 1
        x = x.movedim(dims[0], 0)
        y = F.max_pool2d(x.reshape(-1, *x.shape[2:]), *how)
        return y.view(info.batch_size, -1, *y.shape[1:]), 0


class _BatchNorm(Function):
    """Lanes become channels; running statistics are updated in place, as the module would."""

    setup_context = staticmethod(_never)

    @staticmethod
    def forward(x: Tensor, *rest: Any) -> Tensor:
        return F.batch_norm(x, *rest)

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor, *rest: Any) -> tuple[Tensor, int]:
        lanes = info.batch_size
        *tensors, training, momentum, eps = rest
        stacked: list[Any] = [
            None if one is None else _front(one, dim, lanes)
            for one, dim in zip(tensors, dims[1:], strict=False)
        ]
        flat: list[Any] = [None if one is None else one.reshape(-1) for one in stacked]
        x = _second(x, dims[0], lanes)
        folded = x.reshape(x.shape[0], -1, *x.shape[3:])
        mean, variance, w, b = flat
        updates = training and mean is not None and variance is not None
        if updates:  # a reshape of strided lanes is a copy: what the kernel updates is brought back
            mean, variance = mean.clone(), variance.clone()
        y = F.batch_norm(folded, mean, variance, w, b, training, momentum, eps)
        if updates:
            stacked[0].copy_(mean.view_as(stacked[0]))
            stacked[1].copy_(variance.view_as(stacked[1]))
        return y.view(x.shape), 1


class _GroupNorm(Function):
    """Lanes become examples; the scale and shift of each follow."""

    setup_context = staticmethod(_never)

    @staticmethod
    def forward(x: Tensor, groups: int, w: Tensor, b: Tensor, eps: float) -> Tensor:
        return F.group_norm(x, groups, w, b, eps)

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: Tensor, groups: int, w: Tensor, b: Tensor, eps: float
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        x, w, b = (_front(t, dim, lanes) for t, dim in ((x, dims[0]), (w, dims[2]), (b, dims[3])))
        normed = F.group_norm(x.reshape(-1, *x.shape[2:]), groups, None, None, eps).view(x.shape)
        each = (lanes, 1, -1, *[1] * (x.dim() - 3))
        return torch.addcmul(b.reshape(each), normed, w.reshape(each)), 0


class _LayerNormLanes(Function):
    """x [K, M, D], w and b [K, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
        normed, mean, rstd = torch.native_layer_norm(x, [x.shape[-1]], None, None, eps)
        ctx.save_for_backward(x, w, mean, rstd, normed)
        return torch.addcmul(b.unsqueeze(1), normed, w.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, w, mean, rstd, normed = ctx.saved_tensors
        to_x = torch.ops.aten.native_layer_norm_backward(
            grad * w.unsqueeze(1), x, [x.shape[-1]], mean, rstd, None, None, [True, False, False]
        )[0]
        return to_x, (grad * normed).sum(1), grad.sum(1), None


class _LayerNorm(Function):
    setup_context = staticmethod(_never)

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, [x.shape[-1]], w, b, eps)

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: Tensor, w: Tensor, b: Tensor, eps: float
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        x, w, b = (_front(one, dim, lanes) for one, dim in zip((x, w, b), dims, strict=False))
        y = apply(_LayerNormLanes, x.reshape(lanes, -1, x.shape[-1]), w, b, eps)
        return y.view(x.shape), 0


class _Attention(Function):
    """Attention has no parameters: lanes become examples."""

    setup_context = staticmethod(_never)

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    @staticmethod
    def vmap(
        info: Any, dims: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        q, k, v = (_front(one, dim, lanes) for one, dim in zip((q, k, v), dims, strict=False))
        if q.shape[-2] <= _SHORT and not causal:
            a, b, c = (one.reshape(-1, *one.shape[-2:]) for one in (q, k, v))
            weights = torch.softmax(torch.bmm(a * q.shape[-1] ** -0.5, b.transpose(1, 2)), -1)
            y = torch.bmm(weights, c)
        else:
            a, b, c = (one.reshape(-1, *one.shape[2:]) for one in (q, k, v))
            y = F.scaled_dot_product_attention(a, b, c, is_causal=causal)
        return y.view(*q.shape[:-1], v.shape[-1]), 0


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

    setup_context = staticmethod(_never)

    @staticmethod
    def forward(x: Tensor, random: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
        """Return x with elements dropped."""
        return dropout.apply(x, random, threshold, scale)

    @staticmethod
    def vmap(info: Any, dims: Any, *tensors: Tensor) -> tuple[Tensor, int]:
        """Do it for all lanes."""
        pairs = zip(tensors, dims, strict=True)
        return apply(_DropoutLanes, *(_front(one, dim, info.batch_size) for one, dim in pairs)), 0


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


# ---- the table: a torch function, its parameters, and what stands in for it where it can


def _given(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _linear(given: dict[str, Any]) -> Tensor | None:
    return apply(_Linear, given["input"], given["weight"], given.get("bias"))


def _conv2d(given: dict[str, Any]) -> Tensor | None:
    if given["input"].dim() != 4 or isinstance(given.get("padding", 0), str):
        return None
    how = (_pair(given.get(name, default)) for name, default in _CONV_HOW)
    about = (given["input"], given["weight"], given.get("bias"))
    return apply(_Conv2d, *about, *how, given.get("groups", 1))


_CONV_HOW = (("stride", 1), ("padding", 0), ("dilation", 1))


def _layer_norm(given: dict[str, Any]) -> Tensor | None:
    w, b = given.get("weight"), given.get("bias")
    if len(given["normalized_shape"]) != 1 or w is None or b is None:
        return None
    return apply(_LayerNorm, given["input"], w, b, given.get("eps", 1e-5))


def _batch_norm(given: dict[str, Any]) -> Tensor | None:
    if given["input"].dim() != 4 or given.get("weight") is None:
        return None
    names = ("input", "running_mean", "running_var", "weight", "bias")
    rest = (given.get("training", False), given.get("momentum", 0.1), given.get("eps", 1e-5))
    return apply(_BatchNorm, *(given.get(name) for name in names), *rest)


def _group_norm(given: dict[str, Any]) -> Tensor | None:
    w, b = given.get("weight"), given.get("bias")
    if w is None or b is None:
        return None
    return apply(_GroupNorm, given["input"], given["num_groups"], w, b, given.get("eps", 1e-5))


def _max_pool2d(given: dict[str, Any]) -> Tensor | None:
    if given.get("return_indices") or given["input"].dim() != 4:
        return None
    size = given["kernel_size"]
    rest = (given.get("padding", 0), given.get("dilation", 1), given.get("ceil_mode", False))
    return apply(_MaxPool2d, given["input"], size, given.get("stride") or size, *rest)


def _attention(given: dict[str, Any]) -> Tensor | None:
    plain = not any(given.get(name) for name in ("dropout_p", "scale", "enable_gqa"))
    if given["query"].dim() != 4 or given.get("attn_mask") is not None or not plain:
        return None
    causal = given.get("is_causal", False)
    return apply(_Attention, given["query"], given["key"], given["value"], causal)


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
