"""Norms of gradients, weights and updates, layer by layer, at one step.

CS231n, "Ratio of weights:updates": |update| / |weights| should be about 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

#: Histograms count log10 |gradient| between these, one bin a decade; the ends hold what is beyond.
DECADES = (-12, 3)
#: Elements of a gradient that are counted, at most.
ELEMENTS = 512
_BINS = DECADES[1] - DECADES[0]


class ParameterRecord(TypedDict):
    """A parameter in a layer record; `grad_rms` is the root mean square of its gradient."""

    name: str
    shape: list[int]
    grad: float
    grad_rms: float
    weight: float
    ratio: float
    grads: NotRequired[list[int]]


class Norms(NamedTuple):
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

    def record(self, histogram: list[int] | None) -> ParameterRecord:
        """Return the parameter as a layer record has it, with the histogram of its gradient."""
        record: ParameterRecord = {
            "name": self.name,
            "shape": list(self.shape),
            "grad": rounded(self.grad),
            "grad_rms": rounded(self.grad / math.sqrt(max(math.prod(self.shape), 1))),
            "weight": rounded(self.weight),
            "ratio": rounded(self.ratio),
        }
        if histogram is not None:
            record["grads"] = histogram
        return record


def scalars(norms: Sequence[Norms]) -> dict[str, float]:
    """Return "grad_norm" and "weight_norm" of all, and the "update_ratio" of the weights.

    The ratio is the median over the parameters of two dimensions or more: biases start at 0.
    """
    if not norms:
        return {}
    ratios = [norm.ratio for norm in norms if len(norm.shape) > 1 and math.isfinite(norm.ratio)]
    totals = {
        "grad_norm": rounded(math.hypot(*(norm.grad for norm in norms))),
        "weight_norm": rounded(math.hypot(*(norm.weight for norm in norms))),
    }
    return totals | ({"update_ratio": rounded(median(ratios))} if ratios else {})


def rounded(value: float) -> float:
    """Return a number with six digits: the history is part of every checkpoint.

    >>> rounded(0.123456789)
    0.123457
    """
    return float(f"{value:.6g}")


def read_scalars(scalars: Sequence[Tensor]) -> list[float]:
    """Return the values of tensors of one element, in one copy from a GPU."""
    if scalars and scalars[0].is_cuda:
        return torch.stack([scalar.float() for scalar in scalars]).tolist()
    return [scalar.item() for scalar in scalars]


def sample(grads: Tensor, rows: int) -> Tensor:
    """Return every k-th element of gradients [..., m], whose weight matrix has `rows` rows.

    k has no divisor in common with a row's length, or the same columns would be taken in all rows.
    """
    count = grads.shape[-1]
    every = max(1, -(-count // ELEMENTS))
    while math.gcd(every, count // max(rows, 1)) > 1:
        every += 1
    return grads[..., ::every]


def histograms(elements: Tensor, lengths: Sequence[int]) -> list[list[int]]:
    """Return for each part 15 counts of its elements by decade of their size; NaN do not count.

    The parts follow each other in `elements`; `lengths` are their numbers of elements.

    >>> counts = histograms(torch.tensor([0.0, 0.5, -0.02, 1e9]), [2, 2])
    >>> [[bin for bin, count in enumerate(row) if count] for row in counts]
    [[0, 11], [10, 14]]
    """
    # numpy takes half the time of torch's kernels for so few elements
    low, high = DECADES
    with np.errstate(divide="ignore", invalid="ignore"):
        decades = np.log10(elements.abs().float().cpu().numpy())
    decades = np.clip(decades, low, high - 1e-3) - low
    bins = np.where(np.isnan(decades), _BINS, decades).astype(np.int64)
    parts = np.repeat(np.arange(len(lengths)), lengths)
    counts = np.bincount(bins + (_BINS + 1) * parts, minlength=(_BINS + 1) * len(lengths))
    rows: list[list[int]] = counts.reshape(-1, _BINS + 1)[:, :_BINS].tolist()
    return rows


class UpdateMonitor:
    """Observes one step of each epoch of a model that is trained alone; see `Training.step`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = [(name, tuple(p.shape), p) for name, p in parameters.items()]
        self.begin_epoch(with_histograms=False)

    def begin_epoch(self, *, with_histograms: bool) -> None:
        """Start an epoch: forget the step that was observed."""
        self._with_histograms = with_histograms
        #: Name and shape of the parameters that have a gradient.
        self._observed: list[tuple[str, tuple[int, ...]]] = []
        self._weights: list[Tensor] = []
        #: The weights before the update, negated; then the update itself.
        self._differences: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._elements: Tensor | None = None
        self._lengths: list[int] = []

    @torch.no_grad()
    def gradients(self) -> None:
        """Observe a step after its backward pass, before clipping changes the gradients."""
        grads: list[Tensor] = []
        for name, shape, parameter in self._parameters:
            grad = parameter.grad
            if grad is not None and not grad.is_sparse:
                self._observed.append((name, shape))
                self._weights.append(parameter)
                grads.append(grad)
        if not grads:
            return
        self._norms = [*torch._foreach_norm([*grads, *self._weights])]
        self._differences = [*torch._foreach_neg(self._weights)]  # a copy, by one kernel on a GPU
        if self._with_histograms:
            samples = [sample(grad.flatten(), len(grad)) for grad in grads if grad.dim() > 1]
            self._lengths = [len(part) for part in samples]
            # a copy: clipping changes gradients in place
            self._elements = torch.cat(samples) if samples else None

    @torch.no_grad()
    def updated(self) -> None:
        """Observe the step after the update."""
        if self._differences:
            torch._foreach_add_(self._differences, self._weights)
            self._norms += torch._foreach_norm(self._differences)
            self._differences = []

    def norms(self) -> list[Norms]:
        """Return the norms, in the model's order; empty where nothing was updated."""
        count = len(self._observed)
        if not count or len(self._norms) < 3 * count:
            return []
        values = read_scalars(self._norms)
        grads, weights, updates = values[:count], values[count : 2 * count], values[2 * count :]
        return [
            Norms(name, shape, *norms)
            for (name, shape), *norms in zip(self._observed, grads, weights, updates, strict=True)
        ]

    def histograms(self) -> dict[str, list[int]]:
        """Return the gradient's histogram of every weight, by name."""
        if self._elements is None:
            return {}
        names = [name for name, shape in self._observed if len(shape) > 1]
        return dict(zip(names, histograms(self._elements, self._lengths), strict=True))
