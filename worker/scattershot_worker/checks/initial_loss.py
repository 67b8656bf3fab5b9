"""Check of the loss before learning: an untrained network should be at chance.

Notes: "Sanity checks Tips/Tricks" in neural-networks-3: ln C for softmax, C - 1 for a hinge loss.
"""

from __future__ import annotations

import math

import torch

from scattershot_common.task.check_result import CheckResult, Status
from scattershot_worker.checks.task_under_test import TaskUnderTest
from scattershot_worker.training.outputs import uninformed

_EXAMPLES = 1024
#: The loss over chance, at most: close to it, passed, and a warning; above it fails.
_CLOSE, _PASS, _WARN = 1.15, 1.5, 3.0
#: Below this share of chance an untrained network knows what it cannot know.
_BELOW_CHANCE = 0.75


@torch.no_grad()
def check(under_test: TaskUnderTest) -> CheckResult:
    """Compare the loss of initial weights, without regularization, with that of chance."""
    task = under_test.task
    x, y = under_test.sample(_EXAMPLES)
    outputs = under_test.plain_model()(x)
    hooks = under_test.hooks(**under_test.unregularized())
    loss = hooks.loss(outputs, y).item()
    declared = hooks.initial_loss(under_test.classes)
    expected = declared
    if expected is None:
        expected = hooks.loss(uninformed(outputs, y), y).item()
    spread = outputs.float().std().item()
    numbers = {"loss": loss, "expected": expected, "declared": declared is not None}
    numbers |= {"outputs_std": spread, "examples": len(y)}
    source = (
        "as the task declares" if declared is not None else _source(under_test, outputs, expected)
    )
    found = f"loss {loss:.4g}, at chance {expected:.4g} ({source})"
    name = "initial_loss"
    if not math.isfinite(loss):
        return CheckResult(
            name,
            "fail",
            found,
            "The loss of the initial weights is not a number: nothing can be learned.",
            "Look for values in the data that are not finite (the check `data`), a logarithm or a "
            "division in the loss, and initial weights that are too large.",
            numbers=numbers,
        )
    if declared is None and not 0 < expected < math.inf:
        return CheckResult(
            name,
            "pass",
            found,
            "The loss is a number; the value at chance is not known for this loss.",
            "Declare it in the task, by initial_loss(), to have it compared.",
            numbers=numbers,
        )
    ratio = loss / expected if expected > 0 else math.inf if loss > expected else 1.0
    if ratio < _BELOW_CHANCE:
        return CheckResult(
            name,
            "warn",
            found,
            "The network is better than chance before it has learned anything.",
            "If its weights are pretrained that is as it should be. If not, the targets leak into "
            "the inputs, or the loss is not the one you think (a mean over too many elements?).",
            numbers=numbers,
        )
    if ratio <= _PASS:
        meaning = "The initial weights know nothing."
        if ratio > _CLOSE:
            meaning = "Close enough to chance; smaller weights in the last layer would be closer."
        return CheckResult(name, "pass", found, meaning, numbers=numbers)
    meaning = (
        f"The initial weights are sure of wrong answers: their outputs spread by {spread:.2g} "
        "around their mean, and the first epochs are spent on unlearning that."
    )
    remedy = (
        "Use smaller initial weights in the last layer (a standard deviation of 0.01, zero "
        "biases), or check that the inputs have mean 0 and deviation 1."
    )
    if task.kind == "regression":
        meaning = "The initial weights are further off than an answer of 0 for every example."
        remedy = "Use smaller initial weights in the last layer; scale the inputs to deviation 1."
    status: Status = "warn" if ratio <= _WARN else "fail"
    return CheckResult(name, status, found, meaning, remedy, numbers=numbers)


def _source(under_test: TaskUnderTest, outputs: torch.Tensor, expected: float) -> str:
    """Return where the expected loss comes from."""
    if under_test.task.kind == "regression":
        return "the loss of answering 0"
    classes = under_test.classes
    width = outputs.shape[1] if outputs.dim() > 1 else None
    if width is not None and math.isclose(expected, math.log(width), rel_tol=1e-3):
        more = f"; the labels are of {classes} classes" if classes not in (width, None) else ""
        return f"ln {width}{more}"
    if classes is not None and math.isclose(expected, classes - 1, rel_tol=1e-3):
        return f"{classes} - 1"
    return "the loss of outputs that know nothing"
