"""Owns the size of gradients, weights and updates, layer by layer, at one step.

CS231n, "Ratio of weights:updates": |update| / |weights| should be about 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

#: Counts of log10 |gradient| between these, one bin a decade; what is outside counts at the end.
DECADES = (-12, 3)
#: Elements of a gradient that are counted, at most.
ELEMENTS = 512
_BINS = DECADES[1] - DECADES[0]


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


def sample(grads: Tensor, rows: int) -> Tensor:
    """Return the elements of gradients [..., m] of so many rows that are counted: every k-th.

    k has no divisor in common with a row's length, or it would fall on the same columns in all.
    """
    count = grads.shape[-1]
    every = max(1, -(-count // ELEMENTS))
    while math.gcd(every, count // max(rows, 1)) > 1:
        every += 1
    return grads[..., ::every]


def histograms(elements: Tensor, lengths: Sequence[int]) -> list[list[int]]:
    """Return for each part 15 counts of its elements by the decade of their size; NaN do not count.

    The parts have so many of the elements [sum of lengths], one after the other.

    >>> counts = histograms(torch.tensor([0.0, 0.5, -0.02, 1e9]), [2, 2])
    >>> [[bin for bin, count in enumerate(row) if count] for row in counts]
    [[0, 11], [10, 14]]
    """
    # by numpy, which answers in half the time of torch's kernels where so little is counted
    low, high = DECADES
    with np.errstate(divide="ignore", invalid="ignore"):
        places = np.log10(elements.abs().float().cpu().numpy())
    places = np.clip(places, low, high - 1e-3) - low
    bins = np.where(np.isnan(places), _BINS, places).astype(np.int64)
    parts = np.repeat(np.arange(len(lengths)), lengths)
    counts = np.bincount(bins + (_BINS + 1) * parts, minlength=(_BINS + 1) * len(lengths))
    rows: list[list[int]] = counts.reshape(-1, _BINS + 1)[:, :_BINS].tolist()
    return rows


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
        self._elements: Tensor | None = None
        self._lengths: list[int] = []

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
        self._norms = [*torch._foreach_norm([*grads, *self._weights])]
        self._moved = [*torch._foreach_neg(self._weights)]  # a copy, by one kernel on a GPU
        if self._histograms:
            some = [sample(one.flatten(), len(one)) for one in grads if one.dim() > 1]
            self._lengths = [len(one) for one in some]
            # a copy: clipping changes gradients in place
            self._elements = torch.cat(some) if some else None

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
        if self._elements is None:
            return {}
        names = [name for name, shape in self._seen if len(shape) > 1]
        return dict(zip(names, histograms(self._elements, self._lengths), strict=True))
