"""Check that augmentation, mixed precision and the compiler work as in training.

The other checks leave some of them out: they check the network, not how fast it computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scattershot_common.seeds import derive
from scattershot_common.task.check_result import CheckResult, Status
from scattershot_common.task.task import Task
from scattershot_worker.checks.task_under_test import TaskUnderTest
from scattershot_worker.training.hyperparameters import Hyperparameters

_NAME = "options"
_STEPS = 10
#: How far the first loss may be from that of float32, uncompiled, as a share of it.
_TOLERANCE = {"float32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}

_OTHER_CHECKS = (
    "`learning` and `rates` have the augmentation and the precision, but are not compiled, which "
    "takes seconds and changes no number",
    "`initial_loss`, `regularization` and `overfit` have none of them: they check the network "
    "in float32; `gradients` needs float64",
)


@dataclass
class _Problem:
    """A problem with an option, in the words of its `CheckResult`."""

    status: Status
    meaning: str
    remedy: str
    found: str = ""


def check(under_test: TaskUnderTest) -> CheckResult:
    """Do ten steps of a trial's training with the options on, and with them off."""
    how = Hyperparameters.of(under_test.params)
    augments = type(under_test.task).augment is not Task.augment
    used = ["augment"] if augments else []
    used += [f"precision {how.precision}"] if how.precision != "float32" else []
    used += ["compile"] if how.compile else []
    if not used:
        return CheckResult(
            _NAME,
            "skipped",
            "no augmentation, mixed precision or compiler is asked for",
            "There is nothing to check.",
        )
    if problem := _augmented(under_test) if augments else None:
        return CheckResult(_NAME, problem.status, problem.found, problem.meaning, problem.remedy)
    losses, skipped = _losses(under_test)
    plain, _ = _losses(under_test, precision="float32", compile=False)
    found = f"{', '.join(used)}: loss {losses[0]:.4g} → {losses[-1]:.4g} in {_STEPS} steps"
    if how.precision != "float32" or how.compile:
        found += f", without {plain[0]:.4g} → {plain[-1]:.4g}"
    if skipped:
        found += f"; {skipped} skipped by the scaler"
    numbers = {"used": used, "losses": losses, "plain_losses": plain, "skipped_steps": skipped}
    if problem := _compared(losses, plain, skipped, how.precision):
        return CheckResult(
            _NAME, problem.status, found, problem.meaning, problem.remedy, _OTHER_CHECKS, numbers
        )
    return CheckResult(_NAME, "pass", found, "They work together.", "", _OTHER_CHECKS, numbers)


def _losses(under_test: TaskUnderTest, **changes: object) -> tuple[list[float], int]:
    """Return the losses of a few steps, without regularization, and how many the scaler skipped."""
    training = under_test.training(**under_test.unregularized(), **changes)
    losses, skipped = [], 0
    for (x, y), _ in zip(under_test.batches(), range(_STEPS), strict=False):
        scale = training.scaler.get_scale() if training.scaler else 1.0
        losses.append(training.step(x, y).item())
        skipped += training.scaler is not None and training.scaler.get_scale() < scale
    return losses, skipped


def _augmented(under_test: TaskUnderTest) -> _Problem | None:
    x, _ = under_test.sample(under_test.batch_size)
    seed = derive(under_test.seed, "augment", 1)
    first, second = (
        under_test.hooks().augment(x.clone(), torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    advice = (
        "Return the changed batch, with the same number of examples: the targets stay as they are."
    )
    if not isinstance(first, Tensor) or first.shape[:1] != x.shape[:1]:
        result = f"shape {[*first.shape]}" if isinstance(first, Tensor) else type(first).__name__
        found = f"augment(x, generator) makes {result} of a batch of shape {[*x.shape]}"
        return _Problem("fail", "Examples and targets no longer belong together.", advice, found)
    if (first.dtype, first.device) != (x.dtype, x.device):
        found = f"augment(x, generator) makes {first.dtype} on {first.device} of {x.dtype} on "
        found += str(x.device)
        return _Problem("fail", "The network expects what the batch was.", advice, found)
    if x.isfinite().all() and not first.isfinite().all():
        found = "augment(x, generator) makes values that are not finite"
        return _Problem("fail", "Nothing can be learned from them.", advice, found)
    if not torch.equal(first, second):
        return _Problem(
            "warn",
            "It draws from elsewhere: a trial that is resumed, or run again, has other batches.",
            "Draw everything from the generator: torch.rand(n, generator=generator).",
            "augment(x, generator) gives other values for the same generator",
        )
    return None


def _compared(
    losses: list[float], plain: list[float], skipped: int, precision: str
) -> _Problem | None:
    if skipped == len(losses) or (math.isfinite(plain[-1]) and not math.isfinite(losses[-1])):
        meaning = "With these options it does not train, without them it does."
        remedy = 'Try precision = "bf16", which has the range of float32, or "float32".'
        return _Problem("fail", meaning, remedy)
    difference = abs(losses[0] - plain[0]) / max(abs(plain[0]), 1e-12)
    if difference > _TOLERANCE[precision]:
        meaning = f"The same weights have another loss with them: it is off by {difference:.1%}."
        remedy = "Look for sums over many elements and for values beyond 65,504 (fp16), and keep "
        remedy += "them in float32: x.float(). If compile alone is on, its compiler is at fault."
        return _Problem("warn", meaning, remedy)
    return None
