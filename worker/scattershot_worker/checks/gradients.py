"""Check of the gradients: backpropagation against centred differences, for every parameter.

Notes: "Gradient checks" in neural-networks-3, each of its rules in turn.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from scattershot_common.seeds import derive
from scattershot_common.task.check_result import CheckResult
from scattershot_worker.attempt.error_text import describe
from scattershot_worker.checks.finite_differences import (
    DOUBTFUL,
    GOOD,
    MIN_ENTRIES,
    WRONG,
    Comparison,
    EntryStatus,
    Loss,
    compare,
    trained,
)
from scattershot_worker.checks.task_under_test import Batch, TaskUnderTest
from scattershot_worker.training.seeding import seed_everything

#: Few examples: fewer kinks of ReLUs and hinges to cross, and batch norm still has a batch.
_EXAMPLES = 6
#: Steps of training before: errors can hide at initial weights, which are special.
_BURN_IN = 20
#: Weight decay in the comparison with regularization, where the optimizer has none.
_DECAY = 1e-2


def check(under_test: TaskUnderTest) -> CheckResult:
    """Compare gradients on a float64 copy after a short burn-in, dropout seeded."""
    model = under_test.model()
    optimizer = under_test.optimizer(model)
    burn_in = islice(under_test.iterate(model, optimizer, under_test.batches()), _BURN_IN)
    if not all(map(math.isfinite, burn_in)):
        model = under_test.model()  # its learning rate is far too high: initial weights are used
    decays = _decays(model, optimizer) or {name: _DECAY for name, _ in trained(model)}
    batch = _double(under_test.sample(_EXAMPLES))
    seed = derive(under_test.seed, "gradients")
    with _float64():
        try:
            double = _double_copy(model)
            data_loss = _loss_of(under_test, double, batch)
            first, again = data_loss().item(), data_loss().item()
        except Exception as error:  # it ran in float32 just now
            return _skipped(f"it does not compute in float64: {describe(error)}")
        if first != again:
            return _skipped(f"the same seed gives another loss, {first:.6g} and {again:.6g}")
        alone = compare(double, data_loss, seed)
        weights = dict(double.named_parameters())

        def regularized() -> Tensor:
            terms = [0.5 * decay * weights[n].square().sum() for n, decay in decays.items()]
            return data_loss() + torch.stack(terms).sum()

        both = compare(double, regularized, seed, max_entries=MIN_ENTRIES)
    return _result(alone, both)


def _result(alone: Comparison, both: Comparison) -> CheckResult:
    entries = alone.entries
    numbers: dict[str, Any] = {
        "relative_error": alone.error,
        "with_regularization": both.error,
        "by_parameter": alone.errors,
        "outcomes": dict(entries),
        "unused": alone.unused,
    }
    checked = entries["compared"] + entries["both zero"]
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
    if not entries["compared"]:
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
    # an error without the penalty shows with it as well
    place = "the data's loss" if alone.error > WRONG else "the regularized loss"
    wrong = [name for name, value in alone.errors.items() if value > WRONG]
    if error > WRONG:
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
    if error > DOUBTFUL:
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
    meaning = (
        "Below 1e-7: be happy."
        if error <= GOOD
        else (
            "Below 1e-4: good for a loss with kinks; high for a network of tanh and softmax alone."
        )
    )
    if alone.unused:
        return CheckResult(
            "gradients",
            "warn",
            found,
            f"{meaning} But the loss of these examples does not depend on {_listed(alone.unused)}.",
            "They are not used in forward(), or units that are dead or outputs that are zero lie "
            "behind them.",
            details,
            numbers,
        )
    return CheckResult("gradients", "pass", found, meaning, details=details, numbers=numbers)


def _details(comparison: Comparison) -> tuple[str, ...]:
    explanations: dict[EntryStatus, str] = {
        "kink": "at a kink (of a ReLU, a maximum, a hinge), where no gradient is right: left out",
        "too small": "too small to compare in float64: left out",
        "both zero": "zero both ways",
    }
    counts = comparison.entries
    return tuple(
        f"{counts[status]} {'entry' if counts[status] == 1 else 'entries'} {explanation}"
        for status, explanation in explanations.items()
        if counts[status]
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _skipped(reason: str) -> CheckResult:
    return CheckResult(
        "gradients",
        "skipped",
        reason,
        "Its gradients cannot be computed numerically.",
        "Let forward() and loss() follow the type of their inputs, and draw random numbers from "
        "torch's generator.",
    )


def _loss_of(under_test: TaskUnderTest, model: nn.Module, batch: Batch) -> Loss:
    """Return the data's loss as a function with the same random numbers and buffers every time."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def loss() -> Tensor:
        seed_everything(derive(under_test.seed, "gradients"))  # the same dropout masks every time
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        return under_test.hooks().loss(model(batch[0]), batch[1])

    return loss


def _double_copy(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float64, whose parameters can be viewed flat."""
    double = copy.deepcopy(model).to("cpu", torch.float64)
    for parameter in double.parameters():
        parameter.data = parameter.data.contiguous()
    return double


def _decays(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the weight decay of every parameter, by name, that the optimizer has one for."""
    by_id = {
        id(parameter): float(group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group.get("weight_decay")
    }
    return {name: by_id[id(p)] for name, p in trained(model) if id(p) in by_id}


def _double(batch: Batch) -> Batch:
    x, y = (part.cpu() for part in batch)
    return (
        x.double() if x.is_floating_point() else x,
        y.double() if y.is_floating_point() else y,
    )


@contextmanager
def _float64() -> Iterator[None]:
    """Make tensors that model and loss create float64 as well, as by `y.float()`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _DoubleMode():
            yield
    finally:
        torch.set_default_dtype(before)


class _DoubleMode(TorchFunctionMode):
    """Replaces float32 by float64 in all calls: cross-entropies follow their targets' type."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            return args[0].double()
        kwargs = {name: _to_float64(value) for name, value in (kwargs or {}).items()}
        return func(*map(_to_float64, args), **kwargs)


def _to_float64(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
