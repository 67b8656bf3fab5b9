"""`ss.check`: the checks before learning, run from a user's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scattershot_common.entry_points import load_function
from scattershot_common.task.check_result import CheckResult, select_checks
from scattershot_common.task.task import Task


def check(
    task: Task | type[Task] | Callable[..., object] | str,
    params: Mapping[str, Any] | None = None,
    *,
    only: Sequence[str] = (),
    device: str = "auto",
    seed: int = 0,
    quiet: bool = False,
) -> list[CheckResult]:
    """Check a task before anything is learned, print each result as it comes, return all.

    `task` is a `Task`, its class, or a name as in `[study] task`; `params` are the
    hyperparameters that its model is made with. `only` names some of the checks (`CHECKS`).
    Weights, buffers and the generators of random numbers are afterwards as they were.

    Raises:
        ScattershotError: the worker's package or torch is not installed here, or the task's name
            leads nowhere.
        ValueError: `only` names no check.
    """
    select_checks(only)
    check_task = load_function("check_task")
    results = []
    for result in check_task(task, params or {}, only=only, device=device, seed=seed):
        results.append(result)
        if not quiet:
            print(result.to_text(), flush=True)
    return results
