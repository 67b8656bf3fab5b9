"""Owns the comparison of backpropagation with centred differences, entry by entry.

Notes: "Gradient checks" in neural-networks-3: double precision, relative error with the larger of
the two below the line, kinks, a step h that is not too small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

#: Entries looked at in each parameter: half are those of the largest gradients, half random.
LEAST, MOST, _IN_ALL = 2, 8, 400
#: Steps h, in units of max(1, |w|); a smaller one is taken where a kink may have been crossed.
_STEPS = (1e-5, 1e-6, 1e-7)
#: The notes' thresholds of the relative error.
WRONG, UNEASY, HAPPY = 1e-2, 1e-4, 1e-7

#: Of gradients so small that rounding drowns them, a gap of so many times that is none of its.
_NOISY = 64

Outcome = Literal["compared", "both zero", "kink", "too small"]
Loss = Callable[[], Tensor]


@dataclass
class Round:
    """What one round (the data's loss, or with the penalty) found."""

    errors: dict[str, float] = field(default_factory=dict)
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    worst: str = ""
    #: Parameters that the loss does not depend on, on these examples at least.
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


def compare(model: nn.Module, loss: Loss, seed: int, most: int = MOST) -> Round:
    """Compare a few entries of every parameter, at most `most` of each, the random ones by `seed`.

    Model and loss must be in float64, and the loss the same each time it is called.
    """
    found = Round()
    named = dict(trained(model))
    analytic = torch.autograd.grad(loss(), [*named.values()], allow_unused=True)
    count = min(max(_IN_ALL // max(len(named), 1), LEAST), most)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        value = loss().item()
        for (name, parameter), gradient in zip(named.items(), analytic, strict=True):
            flat = torch.zeros_like(parameter) if gradient is None else gradient
            numeric_zero = True
            errors = [0.0]
            for entry in _entries(flat.flatten(), count, generator):
                at = _Entry(parameter.view(-1), entry, flat.flatten()[entry].item(), loss, value)
                outcome, error = at.compare()
                found.outcomes[outcome] += 1
                errors.append(error)
                numeric_zero &= outcome == "both zero"
            if numeric_zero and not flat.any():
                found.unused.append(name)
            elif gradient is None and max(errors) > WRONG:
                found.cut_off.append(name)
            if max(errors) > found.error:
                found.worst = name
            found.errors[name] = max(errors)
    return found


def _entries(gradient: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Return the entries to look at: of the largest gradients, and at random."""
    largest = gradient.abs().topk(min((count + 1) // 2, gradient.numel())).indices.tolist()
    drawn = torch.randint(gradient.numel(), (count,), generator=generator).tolist()
    return [*dict.fromkeys([*largest, *drawn])][:count]


@dataclass
class _Entry:
    """One entry of a parameter, with what backpropagation says of it."""

    flat: Tensor
    index: int
    analytic: float
    loss: Loss
    value: float

    def compare(self) -> tuple[Outcome, float]:
        """Return how the comparison came out, and the relative error (0 where none was made).

        A kink between w - h and w + h shows in one-sided differences that lie apart by as much as
        backpropagation and the centred difference do. Then a smaller h is tried, which leaves
        most kinks outside; where the smallest does not, the entry is left out.
        """
        outcome: tuple[Outcome, float] = "kink", 0.0
        for step in _STEPS:
            h = step * max(1.0, abs(self.flat[self.index].item()))
            above, below = self._shifted(h), self._shifted(-h)
            numeric = (above - below) / (2 * h)
            gap, largest = abs(self.analytic - numeric), max(abs(self.analytic), abs(numeric))
            if largest == 0:
                return "both zero", 0.0
            if gap <= UNEASY * largest:
                return "compared", gap / largest
            # rounding alone makes the difference uncertain by this much
            noise = 8 * torch.finfo(torch.float64).eps * max(abs(self.value), 1e-300) / h
            apart = abs((above - self.value) - (self.value - below)) / h
            at_kink = gap <= 0.5 * apart + noise
            if UNEASY * largest < noise and gap <= _NOISY * noise:
                return ("kink", 0.0) if at_kink and gap > 4 * noise else ("too small", 0.0)
            outcome = ("kink", 0.0) if at_kink else ("compared", gap / largest)
            if UNEASY * largest < noise:
                return outcome  # a smaller h would be drowned in noise
        return outcome

    def _shifted(self, by: float) -> float:
        before = self.flat[self.index].item()
        self.flat[self.index] = before + by
        value = self.loss().item()
        self.flat[self.index] = before
        return value
