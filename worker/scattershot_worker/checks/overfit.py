"""Check that twenty examples can be learned by heart, without any regularization.

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
#: Shares of the loss at chance below which examples are learned by heart, or almost.
_LEARNED, _ALMOST = 0.01, 0.1
#: Steps between two evaluations of loss and accuracy.
_EVERY = 20


@dataclass
class _RateResult:
    """The best step at one learning rate."""

    rate: float
    steps: int
    first: float
    loss: float
    accuracy: float | None
    #: The loss as a share of that at chance.
    remaining: float
    #: The loss at every step up to this one.
    curve: list[float] = field(default_factory=list)

    @property
    def learned(self) -> bool:
        return self.remaining <= _LEARNED and self.accuracy in (None, 1.0)


def check(under_test: TaskUnderTest) -> CheckResult:
    """Train on only twenty examples until the loss is almost zero, at a few learning rates."""
    batch = under_test.sample(_EXAMPLES)
    own = float(under_test.params.get("lr", _RATES[0]))
    results: list[_RateResult] = []
    for rate in dict.fromkeys([own, *_RATES]):
        results.append(_learn(under_test, batch, rate))
        if results[-1].learned:
            break
    best = min(results, key=lambda r: (not r.learned, -(r.accuracy or 0), r.remaining))
    numbers = {
        "examples": len(batch[1]),
        "learning_rate": best.rate,
        "steps": best.steps,
        "first_loss": best.first,
        "loss": best.loss,
        "accuracy": best.accuracy,
        "losses": best.curve,
        "tried": [[result.rate, result.loss] for result in results],
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
    if best.remaining <= _ALMOST or best.accuracy == 1.0:
        return CheckResult(
            "overfit",
            "warn",
            found,
            "The loss comes close to zero, but does not reach it: the network is small for these "
            "examples, or learns slowly.",
            "Try a larger network, or larger sizes in the space; if your loss cannot reach "
            "zero, this is as expected.",
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


def _learn(under_test: TaskUnderTest, batch: Batch, rate: float) -> _RateResult:
    model = under_test.plain_model()
    optimizer = under_test.optimizer(model, **under_test.unregularized(), lr=rate)
    set_rate(optimizer, rate)
    first, scale = math.nan, math.nan
    best = _RateResult(rate, 0, math.nan, math.inf, None, math.inf)
    curve: list[float] = []
    losses = under_test.iterate(model, optimizer, repeat(batch), **under_test.unregularized())
    for step, loss in enumerate(islice(losses, _STEPS + 1)):
        curve.append(loss)
        if not step:
            first, scale = loss, _scale(under_test, model, batch, loss)
        if step % _EVERY or not math.isfinite(loss):
            continue
        remaining = loss / scale if loss >= 0 and first >= 0 else _remaining(first, loss)
        if remaining <= best.remaining:
            accuracy = _accuracy(under_test, model, batch)
            best = _RateResult(rate, step, first, loss, accuracy, remaining, [*curve])
        if best.learned:
            break
    return best


def _remaining(first: float, loss: float) -> float:
    """Return the share that remains of a loss that can be negative: little once it has halved."""
    fall = first - loss
    if fall <= 0:
        return 1.0
    return _LEARNED if fall >= 0.5 * abs(first) else _ALMOST


@torch.no_grad()
def _scale(under_test: TaskUnderTest, model: torch.nn.Module, batch: Batch, first: float) -> float:
    """Return the loss of an untrained network: at chance, or of predicting the targets' mean."""
    x, y = batch
    outputs = model(x)
    hooks = under_test.hooks(**under_test.unregularized())
    if under_test.task.kind == "classification":
        chance = hooks.loss(uninformed(outputs, y), y).item()
        return max(first, chance if math.isfinite(chance) else 0.0, 1e-12)
    if outputs.numel() != y.numel():  # as a mean and a variance for each target
        return max(first, 1e-12)
    mean = y.to(outputs.dtype).mean(0, keepdim=True).expand_as(y).reshape(outputs.shape)
    return max(min(first, hooks.loss(mean, y).item()), 1e-12)


@torch.no_grad()
def _accuracy(under_test: TaskUnderTest, model: torch.nn.Module, batch: Batch) -> float | None:
    """Return the accuracy on the batch in training mode, None where the task reports none."""
    hooks = under_test.hooks(**under_test.unregularized())
    accuracy: float | None = hooks.metrics(model(batch[0]), batch[1]).get("accuracy")
    return accuracy


def _contradicting(batch: Batch) -> int:
    x, y = batch[0].flatten(1).cpu(), batch[1].cpu()
    same = (x[:, None] == x[None]).all(-1)
    other = (y.reshape(len(y), -1)[:, None] != y.reshape(len(y), -1)[None]).any(-1)
    return int((same & other).any(1).sum())
