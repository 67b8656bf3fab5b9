"""The checks before learning: their table, and the run of them on a task, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from scattershot_common.errors import ScattershotError, TaskError
from scattershot_common.space.space import Space
from scattershot_common.task.check_result import TASK, CheckResult, select_checks
from scattershot_common.task.metric_names import name_problem
from scattershot_common.task.task import Task
from scattershot_worker.attempt.error_text import describe
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.checks import (
    data,
    gradients,
    initial_loss,
    learning,
    lr_range_test,
    options,
    overfit,
    regularization,
)
from scattershot_worker.checks.task_under_test import Check, TaskUnderTest
from scattershot_worker.training.evaluation import metrics_of, one_tensor
from scattershot_worker.training.hooks import Hooks
from scattershot_worker.training.hyperparameters import OutOfBounds
from scattershot_worker.training.seeding import fixed_seed

#: The checks by name; `task.check_result` of common lists them for the master.
CHECKS: dict[str, Check] = {
    "data": data.check,
    "initial_loss": initial_loss.check,
    "regularization": regularization.check,
    "options": options.check,
    "gradients": gradients.check,
    "overfit": overfit.check,
    "learning": learning.check,
    "rates": lr_range_test.check,
}


def check_task(
    task: Task | type[Task] | Callable[..., object] | str,
    params: Mapping[str, Any],
    *,
    only: Sequence[str] = (),
    device: str = "auto",
    seed: int = 0,
    space: Space | None = None,
    data: str | None = None,
) -> Iterator[CheckResult]:
    """Yield the results of the checks named in `only` (all by default), as they come.

    A task whose parts do not fit together gives one failed result, and a train function one
    that says why it cannot be checked.

    Raises:
        ScattershotError: the task cannot be loaded, or the device cannot be used.
        ValueError: `only` names no check.
    """
    names = select_checks(only)
    if isinstance(task, str):
        task = load_task(task, data)
    if isinstance(task, type):
        task = task()
    if not isinstance(task, Task):
        yield CheckResult(
            TASK,
            "skipped",
            f"{getattr(task, '__name__', 'it')} is a train function: its model, data and loss are "
            "inside its own loop, where no check can reach them",
            "Nothing was checked.",
            "To have it checked, bring a task class (docs/own-tasks.md); it may share the code.",
        )
        return
    used_device = _device(device)
    try:
        with fixed_seed(seed), _failures_of("data()"):
            under_test = TaskUnderTest(task, params, used_device, seed, space)
        for name in names:
            with fixed_seed(seed):
                # the check of the data says more of bad labels than the error of the loss would
                _try_parts(under_test, with_loss=name != "data")
                yield _run(name, under_test)
    except _TaskFailure as error:
        yield CheckResult(
            TASK,
            "fail",
            str(error),
            "Nothing can be checked before data, model and loss fit together.",
            error.advice,
        )


def _run(name: str, under_test: TaskUnderTest) -> CheckResult:
    """Return the result of one check, or the task's error in the middle of it."""
    try:
        return CHECKS[name](under_test)
    except BaseException as error:  # whatever a user's code raises
        return CheckResult(
            name,
            "fail",
            _message(error),
            "The task raised this error in the middle of the check.",
            "Correct it; in a study every trial that reaches this line would fail.",
        )
    finally:
        under_test.restore()


class _TaskFailure(Exception):
    """A part of the task raised an error, or returned what it must not."""

    advice = "Correct the task; in a study every trial would fail like this."


@contextmanager
def _failures_of(part: str, params: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Raise errors within as `_TaskFailure`, with the part of the task that they come from."""
    try:
        yield
    except OutOfBounds as error:
        failure = _TaskFailure(str(error))
        failure.advice = "Give it another value: in [space], or by --param."
        raise failure from error
    except BaseException as error:  # whatever a user's code raises
        failure = _TaskFailure(f"{part} does not work: {_message(error)}")
        if isinstance(error, KeyError) and params is not None:
            names = ", ".join(params) or "none"
            failure.advice = f"The hyperparameters given are: {names}. Add what is missing."
        raise failure from error


def _try_parts(under_test: TaskUnderTest, *, with_loss: bool) -> None:
    """Call each part of the task once.

    Raises:
        _TaskFailure: a part does not work.
    """
    params = under_test.params
    try:
        with _failures_of("data()"):
            x, y = under_test.sample(8)
        with _failures_of("model(params)", params):
            model = under_test.model()
        with _failures_of("optimizer(model, params)", params):
            under_test.optimizer(model)
        with _failures_of("the model, given a batch,"):
            outputs = one_tensor(model(x))
        if with_loss:
            with _failures_of("loss(outputs, targets)"):
                value = under_test.hooks().loss(outputs, y)
                if not isinstance(value, Tensor) or value.dim() != 0:
                    shape = f"shape {[*value.shape]}" if isinstance(value, Tensor) else type(value)
                    raise TaskError(f"it must return the batch's mean as a scalar, not {shape}")
            with _failures_of("loss.backward()"):
                value.backward()
            with _failures_of("metrics(outputs, targets)"):
                _check_names(under_test.hooks(), outputs.detach(), y)
    finally:
        under_test.restore()


def _check_names(hooks: Hooks, outputs: Tensor, targets: Tensor) -> None:
    """Raise TaskError if a metric has a name under which it would be refused.

    An error of the metrics themselves is left alone: they may need more than a few examples.
    """
    metrics: Mapping[str, float] = {}
    with suppress(Exception):
        metrics = metrics_of(hooks, outputs, targets)
    for name in metrics:
        wrong = f"{name!r} is empty" if name == "" else name_problem(f"val_{name}")
        if wrong:
            raise TaskError(f"a metric cannot be called so: {wrong}; return it under another name")


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, ScattershotError) else describe(error)


def _device(name: str) -> torch.device:
    """Return the device called `name`; "auto" is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TaskError(f"the device {name!r} cannot be used here: {reason}") from None
    return device
