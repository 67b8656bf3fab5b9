"""Owns the gradient check: backpropagation against centred differences, for every parameter.

Notes: "Gradient checks" in neural-networks-3, each of its rules in turn.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scattershot.checks import CheckResult
from scattershot.seeds import derive
from scattershot_worker.checks.subject import Batch, Subject
from scattershot_worker.handle import seed_everything
from scattershot_worker.job import where

#: Few examples: fewer kinks of ReLUs and hinges to cross, and batch norm still has a batch.
_EXAMPLES = 6
#: Steps of training before: fresh weights are a special place, where errors can hide.
_BURN_IN = 20
#: Entries looked at in each parameter: half are those of the largest gradients, half random.
_LEAST, _MOST, _IN_ALL = 2, 8, 400
#: Steps h, in units of max(1, |w|); a smaller one is taken where a kink may have been crossed.
_STEPS = (1e-5, 1e-6, 1e-7)
#: The notes' thresholds of the relative error.
_WRONG, _UNEASY, _HAPPY = 1e-2, 1e-4, 1e-7
#: Weight decay that stands in for none in the second round.
_DECAY = 1e-2

Outcome = Literal["compared", "both zero", "kink", "too small"]
Loss = Callable[[], Tensor]


@dataclass
class _Round:
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
        return max(self.errors.values(), default=0.0)


def check(subject: Subject) -> CheckResult:
    """Compare gradients on a float64 copy after a short burn-in, dropout seeded."""
    model = subject.model()
    optimizer = subject.optimizer(model)
    burn_in = islice(subject.iterate(model, optimizer, subject.batches()), _BURN_IN)
    if not all(map(math.isfinite, burn_in)):
        model = subject.model()  # its learning rate is absurd; fresh weights will do
    decays = _decays(model, optimizer) or {name: _DECAY for name, _ in _trained(model)}
    batch = _double(subject.sample(_EXAMPLES))
    with _float64():
        try:
            twin = _twin(model)
            data_loss = _loss_of(subject, twin, batch)
            first, again = data_loss().item(), data_loss().item()
        except Exception as error:  # it ran in float32 just now
            return _skipped(f"it does not compute in float64: {where(error)}")
        if first != again:
            return _skipped(f"the same seed gives another loss, {first:.6g} and {again:.6g}")
        alone = _compare(subject, twin, data_loss)
        weights = dict(twin.named_parameters())

        def regularized() -> Tensor:
            terms = [0.5 * decay * weights[n].square().sum() for n, decay in decays.items()]
            return data_loss() + torch.stack(terms).sum()

        both = _compare(subject, twin, regularized, most=_LEAST)
    return _judged(alone, both)


def _judged(alone: _Round, both: _Round) -> CheckResult:
    outcomes = alone.outcomes
    numbers: dict[str, Any] = {
        "relative_error": alone.error,
        "with_regularization": both.error,
        "by_parameter": alone.errors,
        "outcomes": dict(outcomes),
        "unused": alone.unused,
    }
    checked = outcomes["compared"] + outcomes["both zero"]
    found = (
        f"relative error at most {alone.error:.1e}{f' ({alone.worst})' if alone.worst else ''}, "
        f"{both.error:.1e} with regularization; {checked} entries of {len(alone.errors)} parameters"
    )
    details = _details(alone)
    if alone.cut_off:
        return CheckResult(
            "gradients",
            "fail",
            found,
            f"{_listed(alone.cut_off)} changes the loss but gets no gradient: it is never trained.",
            "Look for detach(), .data, .item(), no_grad() or a rebuilt tensor on its way.",
            details,
            numbers,
        )
    if not outcomes["compared"]:
        return CheckResult(
            "gradients",
            "warn",
            found,
            "There is nothing to compare: all gradients are zero, too small or at kinks.",
            "Look at the outputs: saturated or dead units, or a loss that ignores them.",
            details,
            numbers,
        )
    error = max(alone.error, both.error)
    place = "the data's loss" if alone.error >= both.error else "the regularized loss"
    wrong = [name for name, one in alone.errors.items() if one > _WRONG]
    if error > _WRONG:
        return CheckResult(
            "gradients",
            "fail",
            found,
            f"Above 1e-2: the gradient of {place} is most likely wrong"
            f"{f', in {_listed(wrong)}' if wrong else ''}.",
            "Look at the backward() of your own autograd functions and at hooks on gradients, "
            "from the last layer backwards: the first that is wrong spoils those before it.",
            details,
            numbers,
        )
    if error > _UNEASY:
        return CheckResult(
            "gradients",
            "warn",
            found,
            "Between 1e-2 and 1e-4: that should make you uncomfortable, unless the network is "
            "very deep, where errors add up.",
            "Check your own autograd functions one by one with torch.autograd.gradcheck.",
            details,
            numbers,
        )
    happy = (
        "Below 1e-7: be happy."
        if error <= _HAPPY
        else (
            "Below 1e-4: good for a loss with kinks; high for a network of tanh and softmax alone."
        )
    )
    if alone.unused:
        return CheckResult(
            "gradients",
            "warn",
            found,
            f"{happy} But the loss of these examples does not depend on {_listed(alone.unused)}.",
            "They are not used in forward(), or units that are dead or outputs that are zero lie "
            "behind them.",
            details,
            numbers,
        )
    return CheckResult("gradients", "pass", found, happy, details=details, numbers=numbers)


def _details(found: _Round) -> tuple[str, ...]:
    says: dict[Outcome, str] = {
        "kink": "at a kink (of a ReLU, a maximum, a hinge), where no gradient is right: left out",
        "too small": "too small to compare in float64: left out",
        "both zero": "zero both ways",
    }
    counts = found.outcomes
    return tuple(
        f"{counts[outcome]} {'entry' if counts[outcome] == 1 else 'entries'} {said}"
        for outcome, said in says.items()
        if counts[outcome]
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _skipped(why: str) -> CheckResult:
    return CheckResult(
        "gradients",
        "skipped",
        why,
        "Numerical gradients cannot be had of it.",
        "Let forward() and loss() follow the type of their inputs, and draw random numbers from "
        "torch's generator.",
    )


def _compare(subject: Subject, model: nn.Module, loss: Loss, most: int = _MOST) -> _Round:
    """Compare a few entries of every parameter."""
    found = _Round()
    named = dict(_trained(model))
    analytic = torch.autograd.grad(loss(), [*named.values()], allow_unused=True)
    count = min(max(_IN_ALL // max(len(named), 1), _LEAST), most)
    generator = torch.Generator().manual_seed(derive(subject.seed, "gradients"))
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
            elif gradient is None and max(errors) > _WRONG:
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
            if gap <= _UNEASY * largest:
                return "compared", gap / largest
            # rounding alone makes the difference uncertain by this much
            noise = 8 * torch.finfo(torch.float64).eps * max(abs(self.value), 1e-300) / h
            if _UNEASY * largest < noise:
                return ("too small", 0.0) if gap <= 4 * noise else outcome
            apart = abs((above - self.value) - (self.value - below)) / h
            at_kink = gap <= 0.5 * apart + noise
            outcome = ("kink", 0.0) if at_kink else ("compared", gap / largest)
        return outcome

    def _shifted(self, by: float) -> float:
        before = self.flat[self.index].item()
        self.flat[self.index] = before + by
        value = self.loss().item()
        self.flat[self.index] = before
        return value


def _loss_of(subject: Subject, model: nn.Module, batch: Batch) -> Loss:
    """Return the data's loss as a function that always draws and starts alike."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def loss() -> Tensor:
        seed_everything(derive(subject.seed, "gradients"))  # the same dropout masks every time
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        return subject.task.loss(model(batch[0]), batch[1])

    return loss


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.numel() and parameter.is_floating_point():
            yield name, parameter


def _twin(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float64, whose parameters can be viewed flat."""
    twin = copy.deepcopy(model).to("cpu", torch.float64)
    for parameter in twin.parameters():
        parameter.data = parameter.data.contiguous()
    return twin


def _decays(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the weight decay of every parameter, by name, that the optimizer has one for."""
    by_id = {
        id(parameter): float(group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group.get("weight_decay")
    }
    return {name: by_id[id(one)] for name, one in _trained(model) if id(one) in by_id}


def _double(batch: Batch) -> Batch:
    x, y = (part.cpu() for part in batch)
    return (
        x.double() if x.is_floating_point() else x,
        y.double() if y.is_floating_point() else y,
    )


@contextmanager
def _float64() -> Iterator[None]:
    """Let what the model makes on its way be float64 as well."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
