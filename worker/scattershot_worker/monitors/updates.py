"""Owns the size of gradients, weights and updates, layer by layer, at one step.

CS231n, "Ratio of weights:updates": |update| / |weights| should be about 1e-3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

#: Counts of log10 |gradient| between these, one bin a decade; what is outside counts at the end.
DECADES = (-12, 3)
#: Elements of a gradient that are counted, at most.
ELEMENTS = 4096


@dataclass(frozen=True)
class Sizes:
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


def histogram(grad: Tensor) -> Tensor:
    """Return [15] counts of elements of a gradient by the decade of their size; NaN do not count.

    Of a large one every n-th element is looked at.
    """
    low, high = DECADES
    some = grad.detach().flatten()[:: 1 + grad.numel() // ELEMENTS].float()
    sizes = some.abs().log10_().clamp_(low, high - 1e-3)
    return torch.histc(sizes, bins=high - low, min=low, max=high)


class Step:
    """Watches one step of a model that is trained alone; see `Training.step`."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, histograms: bool) -> None:
        self._all, self._histograms = parameters, histograms
        self._seen: dict[str, nn.Parameter] = {}
        self._before: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._counts: dict[str, Tensor] = {}

    @torch.no_grad()
    def gradients(self) -> None:
        """Look between the backward pass and all that changes gradients or weights."""
        self._seen = {
            name: one
            for name, one in self._all.items()
            if one.grad is not None and not one.grad.is_sparse
        }
        weights = [one.detach() for one in self._seen.values()]
        grads = [one.grad for one in self._seen.values() if one.grad is not None]
        if not grads:
            return
        self._before = [one.clone() for one in weights]
        self._norms = [*torch._foreach_norm(grads), *torch._foreach_norm(weights)]
        if self._histograms:
            self._counts = {
                name: histogram(grad)
                for (name, one), grad in zip(self._seen.items(), grads, strict=True)
                if one.dim() > 1
            }

    @torch.no_grad()
    def updated(self) -> None:
        """Look after the update."""
        if self._before:
            moved = torch._foreach_sub([one.detach() for one in self._seen.values()], self._before)
            self._norms += torch._foreach_norm(moved)
            self._before = []

    def sizes(self) -> list[Sizes]:
        """Return what was seen, in the model's order; empty where nothing had a gradient."""
        if not self._norms:
            return []
        numbers = torch.stack([one.float() for one in self._norms]).tolist()
        count = len(self._seen)
        columns = (numbers[:count], numbers[count : 2 * count], numbers[2 * count :])
        return [
            Sizes(name, tuple(one.shape), *norms)
            for (name, one), *norms in zip(self._seen.items(), *columns, strict=True)
        ]

    def counts(self) -> dict[str, list[int]]:
        """Return the gradient's histogram of every weight, by name."""
        if not self._counts:
            return {}
        rows = torch.stack([*self._counts.values()]).tolist()
        return {
            name: [int(count) for count in row]
            for name, row in zip(self._counts, rows, strict=True)
        }
