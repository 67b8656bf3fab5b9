"""Variables that outlive a trial: a task's attributes, and the globals of the user's modules.

A worker keeps a task, and the modules it comes from, from trial to trial. `Variables` records what
they are before the first trial, so that a change is noticed, and undone before the next one.

Recorded are containers, instances and classes of the user's, with what they contain; tensors and
arrays by identity and version, with a copy of small ones. Generators of random numbers are not:
`own_generators` seeds them.
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
from collections import deque
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from scattershot_common.task.task import Data, Task
from scattershot_worker.training.variable_records import (
    PLAIN,
    ArrayRecord,
    ClassRecord,
    ItemsRecord,
    LengthRecord,
    MappingRecord,
    NamespaceRecord,
    Record,
    TensorRecord,
)

#: Entries of a container up to which its contents are recorded; of a longer one it is the length.
_MAX_ENTRIES = 10_000
#: Objects that are recorded.
_MAX_OBJECTS = 50_000
#: Bytes up to which a tensor or an array is copied, and those of all copies.
_COPIED, _ALL_COPIED = 1 << 20, 1 << 26
#: Bytes from which on a tensor or an array is taken for data.
_DATA = 1 << 16

_LIBRARY_INSTANCES = (SimpleNamespace, argparse.Namespace, nn.Module, Task)


class Variables:
    """The variables of a task at one moment."""

    def __init__(self, task: Task | Callable[..., object]) -> None:
        """Record the task's attributes, if it is no function, and the user's modules."""
        self._records: list[Record] = []
        self._visited: dict[int, object] = {}
        self._copied = 0
        self._modules = user_modules()
        if isinstance(task, Task):
            self._visit("self", task)
        for name, module in self._modules.items():
            self._visit(name, module)

    def changes(self) -> list[str]:
        """Return the names of the variables that have changed: "self.gamma", "task.GAMMA"."""
        return [*dict.fromkeys(name for record in self._records for name in record.changes())]

    def restore(self) -> list[str]:
        """Undo all changes; return the names of the variables for which that is not possible."""
        return [*dict.fromkeys(name for record in self._records for name in record.restore())]

    def accept_data(self) -> list[str]:
        """Record data that has been loaded since as unchanged; return the names of variables.

        It is what a trial has found missing: a data set, a loader, large tensors.
        """
        accepted = []
        for record in [*self._records]:
            if isinstance(record, MappingRecord):
                for name, value in record.accept(_is_data):
                    accepted.append(name)
                    self._visit(name, value)
        return accepted

    # ---- the walk

    def _visit(self, name: str, value: Any) -> None:
        if isinstance(value, PLAIN) or id(value) in self._visited:
            return
        if len(self._visited) >= _MAX_OBJECTS:
            return
        self._visited[id(value)] = value
        if isinstance(value, Tensor | np.ndarray):
            self._visit_numbers(name, value)
        elif isinstance(value, tuple | frozenset):
            if len(value) <= _MAX_ENTRIES:
                for item in value:
                    self._visit(name, item)
        elif isinstance(value, dict | list | set | deque):
            self._visit_container(name, value)
        elif isinstance(value, ModuleType):
            if value.__name__ in self._modules:
                self._visit_namespace(value.__name__, vars(value), None)
        elif isinstance(value, type):
            if value.__module__ in self._modules:
                self._records.append(
                    record := ClassRecord(f"{value.__module__}.{value.__name__}", value)
                )
                for item in record.saved.values():
                    self._visit(record.name, item)
        elif isinstance(value, FunctionType):
            if value.__module__ in self._modules:
                self._visit_function(f"{value.__module__}.{value.__name__}", value)
        elif self._is_open(value):
            self._visit_namespace(name, vars(value), type(value))

    def _is_open(self, value: object) -> bool:
        """Return whether an instance's attributes are recorded."""
        if isinstance(value, DataLoader | Dataset | Sampler | random.Random):
            return False
        ours = isinstance(value, _LIBRARY_INSTANCES) or type(value).__module__ in self._modules
        return ours and hasattr(value, "__dict__")

    def _visit_namespace(self, name: str, values: dict[str, Any], owner: type | None) -> None:
        record = NamespaceRecord(name, values, owner)
        self._records.append(record)
        for key, item in record.saved.items():
            self._visit(f"{name}.{key}", item)

    def _visit_container(self, name: str, value: Any) -> None:
        if len(value) > _MAX_ENTRIES:
            self._records.append(LengthRecord(name, value))
            return
        self._records.append(
            MappingRecord(name, value) if isinstance(value, dict) else ItemsRecord(name, value)
        )
        for item in value.values() if isinstance(value, dict) else value:
            self._visit(name, item)

    def _visit_function(self, name: str, value: FunctionType) -> None:
        for part in (value.__defaults__, value.__kwdefaults__):
            self._visit(name, part)
        self._visit_namespace(name, value.__dict__, None)

    def _visit_numbers(self, name: str, value: Tensor | np.ndarray) -> None:
        copied = value.nbytes <= _COPIED and self._copied + value.nbytes <= _ALL_COPIED
        if copied:
            self._copied += value.nbytes
        make = TensorRecord if isinstance(value, Tensor) else ArrayRecord
        self._records.append(make(name, value, copied))  # type: ignore[arg-type]


def user_modules() -> dict[str, ModuleType]:
    """Return the imported modules that are no library's, by name."""
    last = next(reversed(sys.modules))
    return _user_modules(len(sys.modules), last, id(sys.modules[last]))


@lru_cache(maxsize=1)
def _user_modules(count: int, last: str, identity: int) -> dict[str, ModuleType]:
    modules = {}
    main = sys.modules.get("__main__")  # multiprocessing lists it by a second name
    for name, module in [*sys.modules.items()]:
        if module is main or name.partition(".")[0].partition("_")[0] == _OURS:
            continue
        if not isinstance(module, ModuleType):
            continue
        file = vars(module).get("__file__")
        if isinstance(file, str) and not _is_library(file):
            modules[module.__name__] = module
    return modules


#: What the names of our own packages begin with.
_OURS = "scattershot"


@cache
def _is_library(file: str) -> bool:
    if {"site-packages", "dist-packages"} & {*Path(file).parts}:
        return True
    return any(file.startswith(folder + "/") for folder in _library_folders())


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def _is_data(value: object) -> bool:
    """Return whether a value is data that trials share, and not what a trial has made of it."""
    if isinstance(value, Tensor):
        return not value.requires_grad and value.nbytes >= _DATA
    if isinstance(value, np.ndarray):
        return value.nbytes >= _DATA
    if isinstance(value, Data | Dataset | DataLoader):
        return True
    if isinstance(value, Mapping):
        value = (*value.values(),)
    if isinstance(value, tuple | list) and len(value) <= _MAX_ENTRIES:
        return any(map(_is_data, value)) and all(map(_may_be_data, value))
    return False


def _may_be_data(value: object) -> bool:
    """Return whether a value may lie beside data, as labels and numbers of classes do."""
    numbers = isinstance(value, np.ndarray) or (
        isinstance(value, Tensor) and not value.requires_grad
    )
    return numbers or isinstance(value, PLAIN) or _is_data(value)
