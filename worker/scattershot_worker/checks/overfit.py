"""Owns the check that twenty examples can be learned by heart, with all regularization off.

Notes: "Sanity checks Tips/Tricks" in neural-networks-3: "overfit a tiny subset of data ... unless
you pass this sanity check with a small dataset it is not worth proceeding to the full dataset".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import islice, repeat

import torch

from scattershot_common.task.check_result import CheckResult
from scattershot_worker.checks.task_under_test import Batch, TaskUnderTest, set_rate
from scattershot_worker.training.outputs import uninformed

_EXAMPLES, _STEPS = 20, 400
#: The learning rates to try, after the trial's own.
_RATES = (1e-2, 1e-1, 1e-3, 1.0)
#: Learned by heart: the loss as a part of what knowing nothing costs; and almost learned.
_ENOUGH, _ALMOST = 0.01, 0.1
#: Accuracy and loss are looked at every so many steps.
_EVERY = 20


@dataclass
class _Try:
    """How far one learning rate came."""

    rate: float
    steps: int
    first: float
    loss: float
    accuracy: float | None
    left: float
    #: The loss at every step up to this one.
    curve: list[float] = field(default_factory=list)

    @property
    def learned(self) -> bool:
        return self.left <= _ENOUGH and self.accuracy in (None, 1.0)


def check(subject: TaskUnderTest) -> CheckResult:
    """Train on twenty examples alone until the loss is almost zero, at a few learning rates."""
    batch = subject.sample(_EXAMPLES)
    own = float(subject.params.get("lr", _RATES[0]))
    tries: list[_Try] = []
    for rate in dict.fromkeys([own, *_RATES]):
        tries.append(_learn(subject, batch, rate))
        if tries[-1].learned:
            break
    best = min(tries, key=lambda one: (not one.learned, -(one.accuracy or 0), one.left))
    numbers = {
        "examples": len(batch[1]),
        "learning_rate": best.rate,
        "steps": best.steps,
        "first_loss": best.first,
        "loss": best.loss,
        "accuracy": best.accuracy,
        "losses": best.curve,
        "tried": [[one.rate, one.loss] for one in tries],
    }
    found = f"{len(batch[1])} examples: loss {best.first:.4g} → {best.loss:.3g}"
    if best.accuracy is not None:
        found += f", accuracy {best.accuracy:.0%}"
    found += f" in {best.steps} steps at learning rate {best.rate:.2g}"
    if best.learned:
        meaning = "The network, its loss and its gradients can learn."
        return CheckResult("overfit", "pass", found, meaning, numbers=numbers)
    contradicting = _contradicting(batch)
    numbers["contradicting"] = contradicting
    details = (f"{contradicting} of them have the inputs of another, but other targets",)
    if best.left <= _ALMOST or best.accuracy == 1.0:
        return CheckResult(
            "overfit",
            "warn",
            found,
            "It comes close, but not to zero: the network is small for this, or learns slowly.",
            "Try a larger network, or more of its size in the space; if your loss cannot reach "
            "zero, that is all there is to it.",
            details if contradicting else (),
            numbers,
        )
    return CheckResult(
        "overfit",
        "fail",
        found,
        "It cannot learn even these by heart, so it is not worth going on to all the data.",
        "Look at the gradients (the check `gradients`), at whether inputs and targets belong "
        "together, at the loss and its reduction, and at outputs cut off by an activation in the "
        "last layer; then try a larger network.",
        details if contradicting else (),
        numbers,
    )


def _learn(subject: TaskUnderTest, batch: Batch, rate: float) -> _Try:
    model = subject.plain_model()
    optimizer = subject.optimizer(model, **subject.unregularized(), lr=rate)
    set_rate(optimizer, rate)
    first, scale = math.nan, math.nan
    found = _Try(rate, 0, math.nan, math.inf, None, math.inf)
    curve: list[float] = []
    losses = subject.iterate(model, optimizer, repeat(batch))
    for step, loss in enumerate(islice(losses, _STEPS + 1)):
        curve.append(loss)
        if not step:
            first, scale = loss, _scale(subject, model, batch, loss)
        if step % _EVERY or not math.isfinite(loss):
            continue
        left = loss / scale if loss >= 0 and first >= 0 else _below(first, loss)
        if left <= found.left:
            accuracy = _accuracy(subject, model, batch)
            found = _Try(rate, step, first, loss, accuracy, left, [*curve])
        if found.learned:
            break
    return found


def _below(first: float, loss: float) -> float:
    """Return what is left of a loss that has no floor: little once it fell by half of itself."""
    fallen = first - loss
    if fallen <= 0:
        return 1.0
    return _ENOUGH if fallen >= 0.5 * abs(first) else _ALMOST


@torch.no_grad()
def _scale(subject: TaskUnderTest, model: torch.nn.Module, batch: Batch, first: float) -> float:
    """Return what knowing nothing costs: the loss at chance, or of the targets' mean."""
    x, y = batch
    outputs = model(x)
    if subject.task.kind == "classification":
        chance = subject.task.loss(uninformed(outputs, y), y).item()
        return max(first, chance if math.isfinite(chance) else 0.0, 1e-12)
    if outputs.numel() != y.numel():  # as a mean and a variance for each target
        return max(first, 1e-12)
    mean = y.to(outputs.dtype).mean(0, keepdim=True).expand_as(y).reshape(outputs.shape)
    return max(min(first, subject.task.loss(mean, y).item()), 1e-12)


@torch.no_grad()
def _accuracy(subject: TaskUnderTest, model: torch.nn.Module, batch: Batch) -> float | None:
    """Return the accuracy on the batch in training mode, None where the task reports none."""
    return subject.task.metrics(model(batch[0]), batch[1]).get("accuracy")


def _contradicting(batch: Batch) -> int:
    x, y = batch[0].flatten(1).cpu(), batch[1].cpu()
    same = (x[:, None] == x[None]).all(-1)
    other = (y.reshape(len(y), -1)[:, None] != y.reshape(len(y), -1)[None]).any(-1)
    return int((same & other).any(1).sum())
