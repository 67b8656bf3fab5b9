"""Owns the run of the checks on a task: one after the other, each leaving things as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scattershot.checks import TASK, CheckResult, chosen
from scattershot.errors import ScattershotError, TaskError
from scattershot.space import Space
from scattershot.task import Task
from scattershot_worker.checks import CHECKS
from scattershot_worker.checks.subject import Subject
from scattershot_worker.job import where
from scattershot_worker.loading import load_task
from scattershot_worker.trainer import fixed_seed


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
    names = chosen(only)
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
    with fixed_seed(seed):
        subject, wrong = _look(task, params, _device(device), seed, space)
    if subject is None:
        yield wrong
        return
    for name in names:
        with fixed_seed(seed):
            try:
                result = CHECKS[name](subject)
            except (Exception, SystemExit) as error:
                result = CheckResult(
                    name,
                    "fail",
                    _said(error),
                    "The task raised this error in the middle of the check.",
                    "Correct it; in a study every trial that comes to this line would fail.",
                )
            finally:
                subject.restore()
        yield result


def _look(
    task: Task,
    params: Mapping[str, Any],
    device: torch.device,
    seed: int,
    space: Space | None,
) -> tuple[Subject | None, CheckResult]:
    """Return the task made ready, or what is wrong: data, model and loss are tried once."""
    about = "data()"
    try:
        subject = Subject(task, params, device, seed, space)
        x, y = subject.sample(8)
        about = "model(params)"
        model = subject.model()
        about = "optimizer(model, params)"
        subject.optimizer(model)
        about = "the model, given a batch,"
        outputs = model(x)
        about = "loss(outputs, targets)"
        loss = task.loss(outputs, y)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            shape = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss)
            raise TaskError(f"it must return a scalar tensor, the mean of the batch; not {shape}")
        about = "loss.backward()"
        loss.backward()
        subject.restore()
    except (Exception, SystemExit) as error:
        return None, CheckResult(
            TASK,
            "fail",
            f"{about} does not work: {_said(error)}",
            "Nothing can be checked before data, model and loss fit together.",
            _advice(error, params),
        )
    return subject, CheckResult(TASK, "pass", "", "")


def _said(error: BaseException) -> str:
    return str(error) if isinstance(error, ScattershotError) else where(error)


def _advice(error: BaseException, params: Mapping[str, Any]) -> str:
    if isinstance(error, KeyError):
        given = ", ".join(params) or "none"
        return f"The hyperparameters given are: {given}. Add what is missing to the space."
    return "Correct the task; in a study every trial would fail so."


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
