"""Loads tasks by name: each is imported once, and kept with its data from trial to trial."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, get_args

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Kind, Task
from scattershot_common.task.task_names import named_tasks

KINDS = get_args(Kind)
TrainFunction = Callable[[Any], object]

_loaded: dict[tuple[str, str | None], Task | TrainFunction] = {}


def load_task(name: str, data: str | None) -> Task | TrainFunction:
    """Return the task called `name` (a `Task` instance or a train function), loading it once.

    `data` is the folder of [study] data, handed to a task class.

    Raises:
        TaskError: it cannot be imported, or is neither a task class nor a function; the message
            names the cause, and the cause itself is chained.
    """
    key = (name, data)
    if key not in _loaded:
        _loaded[key] = _load(name, data)
    return _loaded[key]


def _load(name: str, data: str | None) -> Task | TrainFunction:
    value = name if ":" in name else named_tasks().get(name, name)
    module_name, _, attribute = value.partition(":")
    try:
        module = importlib.import_module(module_name)
        if not hasattr(module, attribute) and (file := _shadowed(module_name)):
            raise ImportError(f"{file} is called like a module that is in use: rename it")
        task = getattr(module, attribute)
    except BaseException as error:  # a script ends with its sys.exit()
        raise TaskError(f"task {name!r} cannot be imported: {_one_line(error)}") from error
    if isinstance(task, type) and issubclass(task, Task):
        if task.kind not in KINDS:
            raise TaskError(f"task {name!r}: its kind is {task.kind!r}, not {' or '.join(KINDS)}")
        try:
            return task(Path(data) if data else None)
        except TaskError:
            raise
        except BaseException as error:
            raise TaskError(f"task {name!r} cannot be made: {_one_line(error)}") from error
    if isinstance(task, type) or not callable(task):
        raise TaskError(
            f"task {name!r} is neither a subclass of scattershot.Task nor a train function"
        )
    function: TrainFunction = task
    return function


def _shadowed(name: str) -> str:
    """Return the file that a module's name stands for on sys.path, if another one is loaded."""
    top = name.partition(".")[0]
    spec = PathFinder.find_spec(top)
    loaded = getattr(sys.modules[top], "__file__", None)
    return spec.origin if spec and spec.origin and spec.origin != loaded else ""


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
