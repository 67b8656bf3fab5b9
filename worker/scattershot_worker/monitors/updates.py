"""Owns the size of gradients, weights and updates, layer by layer, at one step.

CS231n, "Ratio of weights:updates": |update| / |weights| should be about 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: Counts of log10 |gradient| between these, one bin a decade; what is outside counts at the end.
DECADES = (-12, 3)
#: Elements of a gradient that are counted, at most.
ELEMENTS = 4096


class Sizes(NamedTuple):
    """A parameter at one step: L2 norms of gradient (before clipping), weights and update."""

    name: str
    shape: tuple[int, ...]
    grad: float
    weight: float
    update: float

    @property
    def ratio(self) -> float:
        """|update| / |weights|; NaN where the weights are all 0."""
        return self.update / self.weight if self.weight else math.nan

    def line(self) -> dict[str, object]:
        """Return it as the layers' file has it; `grad_rms` is the norm of the mean element."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "grad": rounded(self.grad),
            "grad_rms": rounded(self.grad / math.sqrt(max(math.prod(self.shape), 1))),
            "weight": rounded(self.weight),
            "ratio": rounded(self.ratio),
        }


def scalars(sizes: Sequence[Sizes]) -> dict[str, float]:
    """Return "grad_norm" and "weight_norm" of all, and the "update_ratio" of the weights.

    The ratio is the median over the parameters of two dimensions or more: biases start at 0.
    """
    if not sizes:
        return {}
    ratios = [one.ratio for one in sizes if len(one.shape) > 1 and math.isfinite(one.ratio)]
    found = {
        "grad_norm": rounded(math.hypot(*(one.grad for one in sizes))),
        "weight_norm": rounded(math.hypot(*(one.weight for one in sizes))),
    }
    return found | ({"update_ratio": rounded(median(ratios))} if ratios else {})


def rounded(value: float) -> float:
    """Return a number with six digits: the history lies in every checkpoint.

    >>> rounded(0.123456789)
    0.123457
    """
    return float(f"{value:.6g}")


def read(scalars: Sequence[Tensor]) -> list[float]:
    """Return the values of tensors of one element, which a GPU hands over all at once."""
    if scalars and scalars[0].is_cuda:
        return torch.stack([one.float() for one in scalars]).tolist()
    return [one.item() for one in scalars]


def histograms(grads: Sequence[Tensor]) -> list[Tensor]:
    """Return for each gradient [15] counts of its elements by the decade of their size.

    NaN do not count; of a large one every n-th element is looked at.
    """
    if not grads:  # a model of biases and norms alone
        return []
    low, high = DECADES
    some = [one.detach().flatten()[:: 1 + one.numel() // ELEMENTS] for one in grads]
    sizes = torch.cat(some).abs_().float().log10_().clamp_(low, high - 1e-3)
    parts = sizes.split([len(one) for one in some])
    return [torch.histc(part, bins=high - low, min=low, max=high) for part in parts]


class Step:
    """Watches one step of each epoch of a model that is trained alone; see `Training.step`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._all = [(name, tuple(one.shape), one) for name, one in parameters.items()]
        self.begin_epoch(histograms=False)

    def begin_epoch(self, *, histograms: bool) -> None:
        """Forget the step that was watched, and be before another."""
        self._histograms = histograms
        self._seen: list[tuple[str, tuple[int, ...]]] = []
        self._weights: list[Tensor] = []
        self._moved: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._counts: list[Tensor] = []

    @torch.no_grad()
    def gradients(self) -> None:
        """Look between the backward pass and all that changes gradients or weights."""
        grads: list[Tensor] = []
        for name, shape, one in self._all:
            grad = one.grad
            if grad is not None and not grad.is_sparse:
                self._seen.append((name, shape))
                self._weights.append(one)
                grads.append(grad)
        if not grads:
            return
        self._norms = [*torch._foreach_norm(grads), *torch._foreach_norm(self._weights)]
        self._moved = [*torch._foreach_neg(self._weights)]  # a copy, by one kernel on a GPU
        if self._histograms:
            self._counts = histograms([one for one in grads if one.dim() > 1])

    @torch.no_grad()
    def updated(self) -> None:
        """Look after the update."""
        if self._moved:
            torch._foreach_add_(self._moved, self._weights)
            self._norms += torch._foreach_norm(self._moved)
            self._moved = []

    def sizes(self) -> list[Sizes]:
        """Return what was seen, in the model's order; empty where nothing was updated."""
        count = len(self._seen)
        if not count or len(self._norms) < 3 * count:
            return []
        numbers = read(self._norms)
        grads, weights, updates = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
        return [
            Sizes(name, shape, *norms)
            for (name, shape), *norms in zip(self._seen, grads, weights, updates, strict=True)
        ]

    def counts(self) -> dict[str, list[int]]:
        """Return the gradient's histogram of every weight, by name."""
        names = [name for name, shape in self._seen if len(shape) > 1]
        rows = torch.stack(self._counts).tolist() if self._counts else []
        return {name: [int(count) for count in row] for name, row in zip(names, rows, strict=False)}
