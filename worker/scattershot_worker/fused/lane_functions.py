"""Layers of all lanes at once: one kernel each for what `vmap` alone would do slowly.

Inside `vmap` a tensor has its lanes in a dimension that only `vmap` sees. Each layer here is an
`autograd.Function` whose `vmap` rule moves that dimension to where one native kernel takes it:
matrix products of lanes become batched products, channels of lanes become channels of a grouped
convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

_Dim = int | None
#: Size of one lane's convolution (pixels, examples and channels multiplied) up to which lanes are
#: one grouped convolution; larger ones are done lane by lane.
_GROUPED_SIZE = 1 << 18
#: Positions up to which attention is two batched products; beyond, the native kernel is faster.
_SHORT_SEQUENCE = 64


def lanes_first(tensor: Tensor, dim: _Dim, lanes: int) -> Tensor:
    """Return a tensor with its lanes first, the same for all where it has none."""
    return (
        tensor.unsqueeze(0).expand(lanes, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    )


def all_lanes_first(
    lanes: int, tensors: Sequence[Tensor], dims: Sequence[_Dim]
) -> Iterator[Tensor]:
    """Return tensors with their lanes first."""
    return (lanes_first(tensor, dim, lanes) for tensor, dim in zip(tensors, dims, strict=True))


def apply(function: type[Function], *arguments: Any) -> Tensor:
    """Apply an autograd function, whose result is a tensor."""
    result: Tensor = function.apply(*arguments)
    return result


def no_backward(ctx: Any, inputs: Any, output: Any) -> None:
    """Replace `setup_context` of functions that have no backward pass of their own."""
    raise RuntimeError("a lane operation was differentiated outside vmap")


class _LinearLanes(Function):
    """x [K, M, I] · w [K, O, I]ᵀ + b [K, O] → [K, M, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.has_bias = b is not None
        wt = w.transpose(1, 2)
        return torch.bmm(x, wt) if b is None else torch.baddbmm(b.unsqueeze(1), x, wt)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, w = ctx.saved_tensors
        return (
            torch.bmm(grad, w) if ctx.needs_input_grad[0] else None,
            torch.bmm(grad.transpose(1, 2), x),
            grad.sum(1) if ctx.has_bias else None,
        )


class Linear(Function):
    """One lane's x [M, …, I] · w [O, I]ᵀ + b [O]."""

    setup_context = staticmethod(no_backward)

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return F.linear(x, w, b)

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor, w: Tensor, b: Tensor | None) -> tuple[Tensor, int]:
        lanes = info.batch_size
        x, w = lanes_first(x, dims[0], lanes), lanes_first(w, dims[1], lanes)
        b = None if b is None else lanes_first(b, dims[2], lanes)
        flat = x.unsqueeze(1) if x.dim() == 2 else x.reshape(lanes, -1, x.shape[-1])
        y = apply(_LinearLanes, flat, w, b)
        return y.view(*x.shape[:-1], y.shape[-1]), 0


class _ConvPerLane(Function):
    """One native convolution per lane: x [K, B, C, H, W], w [K, O, C, h, w], b [K, O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, *options: Any) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.options = options
        biases = [None] * len(x) if b is None else b.unbind(0)
        outs = [torch.conv2d(*lane, *options) for lane in zip(x, w, biases, strict=True)]
        return torch.stack(outs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad,) = grads
        x, w = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        needed = [ctx.needs_input_grad[0], True, ctx.needs_input_grad[2]]
        options = ([w.shape[1]], stride, padding, dilation, False, [0, 0], groups, needed)
        grads_of_lanes = [
            torch.ops.aten.convolution_backward(*lane, *options)
            for lane in zip(grad, x, w, strict=True)
        ]
        stacked = [
            torch.stack([lane[i] for lane in grads_of_lanes]) if needed[i] else None
            for i in range(3)
        ]
        return (*stacked, None, None, None, None)


class Conv2d(Function):
    """One lane's convolution; small ones of all lanes are one grouped convolution."""

    setup_context = staticmethod(no_backward)

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor | None, *options: Any) -> Tensor:
        return F.conv2d(x, w, b, *options)

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: Tensor, w: Tensor, b: Tensor | None, *options: Any
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        w = lanes_first(w, dims[1], lanes)
        b = None if b is None else lanes_first(b, dims[2], lanes)
        batch, channels, height, width = (
            x.shape if dims[0] is None else x.movedim(dims[0], 0).shape[1:]
        )
        outs = w.shape[1]
        if height * width * batch * max(outs, channels) > _GROUPED_SIZE:
            return apply(_ConvPerLane, lanes_first(x, dims[0], lanes), w, b, *options), 0
        stride, padding, dilation, groups = options
        x = _lanes_second(x, dims[0], lanes)
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


def _lanes_second(x: Tensor, dim: _Dim, lanes: int) -> Tensor:
    """Return a tensor with its examples first and its lanes second."""
    if dim is not None:
        return x.movedim(dim, 1)
    return x.unsqueeze(1).expand(x.shape[0], lanes, *x.shape[1:])


class MaxPool2d(Function):
    """Lanes become channels or examples, whichever needs no copy."""

    setup_context = staticmethod(no_backward)

    @staticmethod
    def forward(x: Tensor, *options: Any) -> Tensor:
        pooled: Tensor = F.max_pool2d(x, *options)
        return pooled

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor, *options: Any) -> tuple[Tensor, int]:
        if dims[0] == 1:  # as a grouped convolution returns them
            y = F.max_pool2d(x.reshape(x.shape[0], -1, *x.shape[3:]), *options)
            return y.view(y.shape[0], info.batch_size, -1, *y.shape[2:]), 1
        x = x.movedim(dims[0], 0)
        y = F.max_pool2d(x.reshape(-1, *x.shape[2:]), *options)
        return y.view(info.batch_size, -1, *y.shape[1:]), 0


class BatchNorm(Function):
    """Lanes become channels; running statistics are updated in place, as the module would."""

    setup_context = staticmethod(no_backward)

    @staticmethod
    def forward(x: Tensor, *arguments: Any) -> Tensor:
        return F.batch_norm(x, *arguments)

    @staticmethod
    def vmap(info: Any, dims: Any, x: Tensor, *arguments: Any) -> tuple[Tensor, int]:
        lanes = info.batch_size
        *tensors, training, momentum, eps = arguments
        stacked: list[Any] = [
            None if tensor is None else lanes_first(tensor, dim, lanes)
            for tensor, dim in zip(tensors, dims[1:], strict=False)
        ]
        flat: list[Any] = [None if tensor is None else tensor.reshape(-1) for tensor in stacked]
        x = _lanes_second(x, dims[0], lanes)
        folded = x.reshape(x.shape[0], -1, *x.shape[3:])
        mean, variance, w, b = flat
        updates = training and mean is not None and variance is not None
        if updates:  # a reshape of strided lanes is a copy: the updated copy is copied back
            mean, variance = mean.clone(), variance.clone()
        y = F.batch_norm(folded, mean, variance, w, b, training, momentum, eps)
        if updates:
            stacked[0].copy_(mean.view_as(stacked[0]))
            stacked[1].copy_(variance.view_as(stacked[1]))
        return y.view(x.shape), 1


class GroupNorm(Function):
    """Lanes become examples; each lane's scale and shift are applied after."""

    setup_context = staticmethod(no_backward)

    @staticmethod
    def forward(x: Tensor, groups: int, w: Tensor, b: Tensor, eps: float) -> Tensor:
        return F.group_norm(x, groups, w, b, eps)

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: Tensor, groups: int, w: Tensor, b: Tensor, eps: float
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        x, w, b = all_lanes_first(lanes, (x, w, b), (dims[0], *dims[2:4]))
        normed = F.group_norm(x.reshape(-1, *x.shape[2:]), groups, None, None, eps).view(x.shape)
        shape = (lanes, 1, -1, *[1] * (x.dim() - 3))
        return torch.addcmul(b.reshape(shape), normed, w.reshape(shape)), 0


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


class LayerNorm(Function):
    """Layer normalization over the last dimension."""

    setup_context = staticmethod(no_backward)

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, [x.shape[-1]], w, b, eps)

    @staticmethod
    def vmap(
        info: Any, dims: Any, x: Tensor, w: Tensor, b: Tensor, eps: float
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        x, w, b = all_lanes_first(lanes, (x, w, b), dims[:3])
        y = apply(_LayerNormLanes, x.reshape(lanes, -1, x.shape[-1]), w, b, eps)
        return y.view(x.shape), 0


class Attention(Function):
    """Lanes become examples: attention has no parameters."""

    setup_context = staticmethod(no_backward)

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    @staticmethod
    def vmap(
        info: Any, dims: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool
    ) -> tuple[Tensor, int]:
        lanes = info.batch_size
        q, k, v = all_lanes_first(lanes, (q, k, v), dims[:3])
        if q.shape[-2] <= _SHORT_SEQUENCE and not causal:
            a, b, c = (x.reshape(-1, *x.shape[-2:]) for x in (q, k, v))
            weights = torch.softmax(torch.bmm(a * q.shape[-1] ** -0.5, b.transpose(1, 2)), -1)
            y = torch.bmm(weights, c)
        else:
            a, b, c = (x.reshape(-1, *x.shape[2:]) for x in (q, k, v))
            y = F.scaled_dot_product_attention(a, b, c, is_causal=causal)
        return y.view(*q.shape[:-1], v.shape[-1]), 0
