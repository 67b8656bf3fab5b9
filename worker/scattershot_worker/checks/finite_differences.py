"""Comparison of backpropagation with centred differences, entry by entry.

Notes: "Gradient checks" in neural-networks-3: double precision, relative error by the larger of
the two gradients, kinks, a step h that is not too small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

#: Entries compared in each parameter, at least and at most, and in all of them together; half are
#: those of the largest gradients, half random.
MIN_ENTRIES, MAX_ENTRIES, _ALL_ENTRIES = 2, 8, 400
#: Steps h, in units of max(1, |w|); a smaller one is taken where a kink may have been crossed.
_STEPS = (1e-5, 1e-6, 1e-7)
#: The notes' thresholds of the relative error.
WRONG, DOUBTFUL, GOOD = 1e-2, 1e-4, 1e-7

#: A gap of more than this many times the rounding error is not due to rounding.
_ROUNDING = 64

EntryStatus = Literal["compared", "both zero", "kink", "too small"]
Loss = Callable[[], Tensor]


@dataclass
class Comparison:
    """The comparison for one loss: that of the data, or with the penalty."""

    errors: dict[str, float] = field(default_factory=dict)
    entries: Counter[EntryStatus] = field(default_factory=Counter)
    worst: str = ""
    #: Parameters that the loss does not depend on, at least on these examples.
    unused: list[str] = field(default_factory=list)
    #: Parameters that the loss depends on, but that get no gradient.
    cut_off: list[str] = field(default_factory=list)

    @property
    def error(self) -> float:
        """The largest relative error, 0 where nothing was compared."""
        return max(self.errors.values(), default=0.0)


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that have a gradient to compare, by name."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.numel() and parameter.is_floating_point():
            yield name, parameter


def compare(model: nn.Module, loss: Loss, seed: int, max_entries: int = MAX_ENTRIES) -> Comparison:
    """Compare up to `max_entries` entries of every parameter; `seed` draws the random ones.

    Model and loss must be in float64, and the loss the same each time it is called.
    """
    comparison = Comparison()
    named = dict(trained(model))
    analytic = torch.autograd.grad(loss(), [*named.values()], allow_unused=True)
    count = min(max(_ALL_ENTRIES // max(len(named), 1), MIN_ENTRIES), max_entries)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        value = loss().item()
        for (name, parameter), gradient in zip(named.items(), analytic, strict=True):
            flat = torch.zeros_like(parameter) if gradient is None else gradient
            numeric_zero = True
            errors = [0.0]
            for entry in _entries(flat.flatten(), count, generator):
                analytic_value = flat.flatten()[entry].item()
                status, error = _ParameterEntry(
                    parameter.view(-1), entry, analytic_value, loss, value
                ).compare()
                comparison.entries[status] += 1
                errors.append(error)
                numeric_zero &= status == "both zero"
            if numeric_zero and not flat.any():
                comparison.unused.append(name)
            elif gradient is None and max(errors) > WRONG:
                comparison.cut_off.append(name)
            if max(errors) > comparison.error:
                comparison.worst = name
            comparison.errors[name] = max(errors)
    return comparison


def _entries(gradient: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Return the entries to compare: those of the largest gradients, and random ones."""
    largest = gradient.abs().topk(min((count + 1) // 2, gradient.numel())).indices.tolist()
    drawn = torch.randint(gradient.numel(), (count,), generator=generator).tolist()
    return [*dict.fromkeys([*largest, *drawn])][:count]


@dataclass
class _ParameterEntry:
    """One entry of a parameter, with its gradient by backpropagation."""

    flat: Tensor
    index: int
    analytic: float
    loss: Loss
    value: float

    def compare(self) -> tuple[EntryStatus, float]:
        """Return the status of the comparison, and the relative error (0 where none was made).

        A kink between w - h and w + h shows in one-sided differences that differ by as much as
        backpropagation and the centred difference do. Then a smaller h is tried, which leaves
        most kinks outside; where the smallest does not, the entry is left out.
        """
        status: tuple[EntryStatus, float] = "kink", 0.0
        for step in _STEPS:
            h = step * max(1.0, abs(self.flat[self.index].item()))
            above, below = self._shifted(h), self._shifted(-h)
            numeric = (above - below) / (2 * h)
            gap, largest = abs(self.analytic - numeric), max(abs(self.analytic), abs(numeric))
            if largest == 0:
                return "both zero", 0.0
            if gap <= DOUBTFUL * largest:
                return "compared", gap / largest
            # rounding alone makes the difference uncertain by this much
            noise = 8 * torch.finfo(torch.float64).eps * max(abs(self.value), 1e-300) / h
            apart = abs((above - self.value) - (self.value - below)) / h
            at_kink = gap <= 0.5 * apart + noise
            if DOUBTFUL * largest < noise and gap <= _ROUNDING * noise:
                return ("kink", 0.0) if at_kink and gap > 4 * noise else ("too small", 0.0)
            status = ("kink", 0.0) if at_kink else ("compared", gap / largest)
            if DOUBTFUL * largest < noise:
                return status  # with a smaller h rounding would dominate
        return status

    def _shifted(self, by: float) -> float:
        before = self.flat[self.index].item()
        self.flat[self.index] = before + by
        value = self.loss().item()
        self.flat[self.index] = before
        return value
