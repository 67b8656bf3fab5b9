"""Owns the check of the loss before learning: a network that knows nothing should be at chance.

Notes: "Sanity checks Tips/Tricks" in neural-networks-3: ln C for softmax, C - 1 for a hinge loss.
"""

from __future__ import annotations

import math

import torch

from scattershot_common.task.check_result import CheckResult, Status
from scattershot_worker.checks.task_under_test import TaskUnderTest
from scattershot_worker.training.outputs import uninformed

_EXAMPLES = 1024
#: The loss over chance: close to it, fine, and up to the last worth a word.
_CLOSE, _FINE, _BEARABLE = 1.15, 1.5, 3.0
#: Below this part of chance a network knows what it cannot know.
_KNOWS = 0.75


@torch.no_grad()
def check(subject: TaskUnderTest) -> CheckResult:
    """Compare the loss of fresh weights, regularization off, with what chance would give."""
    task = subject.task
    x, y = subject.sample(_EXAMPLES)
    outputs = subject.plain_model()(x)
    loss = task.loss(outputs, y).item()
    declared = task.initial_loss(subject.classes)
    expected = declared
    if expected is None:
        expected = task.loss(uninformed(outputs, y), y).item()
    spread = outputs.float().std().item()
    numbers = {"loss": loss, "expected": expected, "declared": declared is not None}
    numbers |= {"outputs_std": spread, "examples": len(y)}
    source = "as the task declares" if declared is not None else _source(subject, outputs, expected)
    found = f"loss {loss:.4g}, at chance {expected:.4g} ({source})"
    name = "initial_loss"
    if not math.isfinite(loss):
        return CheckResult(
            name,
            "fail",
            found,
            "The loss of fresh weights is not a number: nothing can be learned from there.",
            "Look for values in the data that are not finite (the check `data`), a logarithm or a "
            "division in the loss, and initial weights that are too large.",
            numbers=numbers,
        )
    if declared is None and not 0 < expected < math.inf:
        return CheckResult(
            name,
            "pass",
            found,
            "The loss is a number; what it should be cannot be told of this loss.",
            "Say it in the task, by initial_loss(), to have it compared.",
            numbers=numbers,
        )
    ratio = loss / expected if expected > 0 else math.inf if loss > expected else 1.0
    if ratio < _KNOWS:
        return CheckResult(
            name,
            "warn",
            found,
            "The network is better than chance before it has learned anything.",
            "If its weights are pretrained that is as it should be. If not, the targets leak into "
            "the inputs, or the loss is not the one you think (a mean over too many elements?).",
            numbers=numbers,
        )
    if ratio <= _FINE:
        meaning = "Fresh weights know nothing."
        if ratio > _CLOSE:
            meaning = "Near enough to chance; smaller weights in the last layer would be nearer."
        return CheckResult(name, "pass", found, meaning, numbers=numbers)
    meaning = (
        f"Fresh weights are sure of wrong answers: their outputs spread by {spread:.2g} around "
        "their mean, and the first epochs go into unlearning that."
    )
    remedy = (
        "Begin with smaller weights in the last layer (a standard deviation of 0.01, zero "
        "biases), or check that the inputs have mean 0 and deviation 1."
    )
    if task.kind == "regression":
        meaning = "Fresh weights are further off than an answer of 0 for every example."
        remedy = "Begin with smaller weights in the last layer; bring the inputs to deviation 1."
    status: Status = "warn" if ratio <= _BEARABLE else "fail"
    return CheckResult(name, status, found, meaning, remedy, numbers=numbers)


def _source(subject: TaskUnderTest, outputs: torch.Tensor, expected: float) -> str:
    """Say where the expected loss comes from, for the line of numbers."""
    if subject.task.kind == "regression":
        return "the loss of answering 0"
    classes = subject.classes
    width = outputs.shape[1] if outputs.dim() > 1 else None
    if width is not None and math.isclose(expected, math.log(width), rel_tol=1e-3):
        more = f"; the labels are of {classes} classes" if classes not in (width, None) else ""
        return f"ln {width}{more}"
    if classes is not None and math.isclose(expected, classes - 1, rel_tol=1e-3):
        return f"{classes} - 1"
    return "the loss of outputs that know nothing"
