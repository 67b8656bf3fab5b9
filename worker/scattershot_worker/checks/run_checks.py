"""Owns the run of the checks on a task: one after the other, each leaving things as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scattershot_common.errors import ScattershotError, TaskError
from scattershot_common.space.space import Space
from scattershot_common.task.check_result import TASK, CheckResult, select_checks
from scattershot_common.task.task import Task
from scattershot_worker.attempt.attempt import where
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.checks import CHECKS
from scattershot_worker.checks.task_under_test import TaskUnderTest
from scattershot_worker.training.hyperparameters import OutOfBounds
from scattershot_worker.training.outputs import one_tensor
from scattershot_worker.training.seeding import fixed_seed


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
    that says why it cannot be looked into.

    Raises:
        ScattershotError: the task or the device cannot be had.
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
    on = _device(device)
    try:
        with fixed_seed(seed), _part("data()"):
            subject = TaskUnderTest(task, params, on, seed, space)
        for name in names:
            with fixed_seed(seed):
                _try(subject, loss=name != "data")  # which tells more of labels than the loss does
                yield _run(name, subject)
    except _DoesNotWork as error:
        yield CheckResult(
            TASK,
            "fail",
            str(error),
            "Nothing can be checked before data, model and loss fit together.",
            error.advice,
        )


def _run(name: str, subject: TaskUnderTest) -> CheckResult:
    """Return what one check finds, or the task's error in the middle of it."""
    try:
        return CHECKS[name](subject)
    except (Exception, SystemExit) as error:
        return CheckResult(
            name,
            "fail",
            _said(error),
            "The task raised this error in the middle of the check.",
            "Correct it; in a study every trial that comes to this line would fail.",
        )
    finally:
        subject.restore()


class _DoesNotWork(Exception):
    """A part of the task raised an error, or gives what it should not."""

    advice = "Correct the task; in a study every trial would fail so."


@contextmanager
def _part(called: str, params: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Name the part of the task that an error comes from, and the hyperparameters it was given."""
    try:
        yield
    except OutOfBounds as error:
        misfit = _DoesNotWork(str(error))
        misfit.advice = "Give it another value: in [space], or by --param."
        raise misfit from error
    except (Exception, SystemExit) as error:
        misfit = _DoesNotWork(f"{called} does not work: {_said(error)}")
        if isinstance(error, KeyError) and params is not None:
            given = ", ".join(params) or "none"
            misfit.advice = f"The hyperparameters given are: {given}. Add what is missing."
        raise misfit from error


def _try(subject: TaskUnderTest, *, loss: bool) -> None:
    """Try each part of the task once. Raises _DoesNotWork."""
    task, params = subject.task, subject.params
    try:
        with _part("data()"):
            x, y = subject.sample(8)
        with _part("model(params)", params):
            model = subject.model()
        with _part("optimizer(model, params)", params):
            subject.optimizer(model)
        with _part("the model, given a batch,"):
            outputs = one_tensor(model(x))
        if loss:
            with _part("loss(outputs, targets)"):
                value = task.loss(outputs, y)
                if not isinstance(value, Tensor) or value.dim() != 0:
                    what = f"shape {[*value.shape]}" if isinstance(value, Tensor) else type(value)
                    raise TaskError(f"it must return the batch's mean as a scalar, not {what}")
            with _part("loss.backward()"):
                value.backward()
    finally:
        subject.restore()


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, ScattershotError) else where(error)


def _device(name: str) -> torch.device:
    """Return the device called `name`; auto is a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TaskError(f"the device {name!r} cannot be used here: {reason}") from None
    return device
