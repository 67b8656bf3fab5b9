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
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property, lru_cache
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from scattershot_common.task.task import Data, Task

#: Entries of a container up to which its contents are recorded; of a longer one it is the length.
_MAX_ENTRIES = 10_000
#: Objects that are recorded.
_MAX_OBJECTS = 50_000
#: Bytes up to which a tensor or an array is copied, and those of all copies.
_COPIED, _ALL_COPIED = 1 << 20, 1 << 26
#: Bytes from which on a tensor or an array is taken for data.
_DATA = 1 << 16

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device)
_LIBRARY_INSTANCES = (SimpleNamespace, argparse.Namespace, nn.Module, Task)
_ABSENT = object()


class _Record(Protocol):
    """An object as it was recorded."""

    def changes(self) -> list[str]:
        """Return the names of what has changed."""

    def restore(self) -> list[str]:
        """Undo the changes; return the names of those that cannot be undone."""


class Variables:
    """The variables of a task at one moment."""

    def __init__(self, task: Task | Callable[..., object]) -> None:
        """Record the task's attributes, if it is no function, and the user's modules."""
        self._records: list[_Record] = []
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
            if isinstance(record, _Mapping):
                for name, value in record.accept(_is_data):
                    accepted.append(name)
                    self._visit(name, value)
        return accepted

    # ---- the walk

    def _visit(self, name: str, value: Any) -> None:
        if isinstance(value, _PLAIN) or id(value) in self._visited:
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
                    record := _Class(f"{value.__module__}.{value.__name__}", value)
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
        record = _Namespace(name, values, owner)
        self._records.append(record)
        for key, item in record.saved.items():
            self._visit(f"{name}.{key}", item)

    def _visit_container(self, name: str, value: Any) -> None:
        if len(value) > _MAX_ENTRIES:
            self._records.append(_Long(name, value))
            return
        self._records.append(
            _Mapping(name, value) if isinstance(value, dict) else _Items(name, value)
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
        make = _Tensor if isinstance(value, Tensor) else _Array
        self._records.append(make(name, value, copied))  # type: ignore[arg-type]


# ---- records


class _Mapping:
    """The items of a dict."""

    def __init__(self, name: str, values: dict[Any, Any]) -> None:
        self.name, self.values = name, values
        self.saved = {key: value for key, value in values.items() if self.counts(key, value)}

    def counts(self, key: Any, value: object) -> bool:
        """Return whether an item is recorded."""
        return True

    def label(self, key: Any) -> str:
        """Return the name of the item of a key."""
        return self.name

    def changed(self) -> list[Any]:
        """Return the keys whose items have changed."""
        values, saved = self.values, self.saved
        changed = [k for k, v in saved.items() if not _same(v, values.get(k, _ABSENT))]
        if len(values) != len(saved):
            changed += [k for k, v in [*values.items()] if k not in saved and self.counts(k, v)]
        return changed

    def accept(self, is_data: Callable[[object], bool]) -> Iterator[tuple[str, Any]]:
        """Record data where there was none; yield the names and values."""
        for key in self.changed():
            value = self.values.get(key)
            if self.saved.get(key) is None and is_data(value):
                self.saved[key] = value
                yield self.label(key), value

    def changes(self) -> list[str]:
        return [self.label(key) for key in self.changed()]

    def restore(self) -> list[str]:
        for key in self.changed():
            if key in self.saved:
                self.values[key] = self.saved[key]
            else:
                del self.values[key]
        return []


class _Namespace(_Mapping):
    """The attributes of an instance, or the globals of a module."""

    def __init__(self, name: str, values: dict[str, Any], owner: type | None) -> None:
        self._owner = owner
        super().__init__(name, values)

    def counts(self, key: Any, value: object) -> bool:
        if isinstance(key, str) and key.startswith("__"):
            return False
        # what a function imports, and what a property keeps
        return not (
            isinstance(value, ModuleType)
            or (self._owner is not None and _is_cached_property(self._owner, key))
        )

    def label(self, key: Any) -> str:
        return f"{self.name}.{key}"


class _Class:
    """The attributes of a class."""

    def __init__(self, name: str, kind: type) -> None:
        self.name, self._kind = name, kind
        self.saved = self._now()

    def _now(self) -> dict[str, Any]:
        skipped = ("__", "_abc_")
        return {k: v for k, v in vars(self._kind).items() if not k.startswith(skipped)}

    def _changed(self) -> list[str]:
        now = self._now()
        keys = {**now, **self.saved}
        return [
            key for key in keys if not _same(self.saved.get(key, _ABSENT), now.get(key, _ABSENT))
        ]

    def changes(self) -> list[str]:
        return [f"{self.name}.{key}" for key in self._changed()]

    def restore(self) -> list[str]:
        for key in self._changed():
            if key in self.saved:
                setattr(self._kind, key, self.saved[key])
            else:
                delattr(self._kind, key)
        return []


class _Items:
    """The items of a list, a set or a deque."""

    def __init__(self, name: str, items: Any) -> None:
        self.name, self._items, self._saved = name, items, [*items]

    def changes(self) -> list[str]:
        if len(self._items) == len(self._saved):
            if isinstance(self._items, set):
                if self._items == {*self._saved}:
                    return []
            elif all(map(_same, self._items, self._saved)):
                return []
        return [self.name]

    def restore(self) -> list[str]:
        if self.changes():
            self._items.clear()
            if isinstance(self._items, set):
                self._items.update(self._saved)
            else:
                self._items.extend(self._saved)
        return []


class _Long:
    """A container of too many entries to record them."""

    def __init__(self, name: str, items: Any) -> None:
        self.name, self._items, self._length = name, items, len(items)

    def changes(self) -> list[str]:
        return [] if len(self._items) == self._length else [self.name]

    def restore(self) -> list[str]:
        return self.changes()


class _Tensor:
    """A tensor's version, which every change in place counts up."""

    def __init__(self, name: str, tensor: Tensor, copied: bool) -> None:
        self.name, self._tensor = name, tensor
        self._version = self._now()
        self._copy = tensor.detach().clone() if copied else None

    def _now(self) -> int:
        try:
            return self._tensor._version
        except RuntimeError:  # made in inference mode
            return 0

    def changes(self) -> list[str]:
        return [] if self._now() == self._version else [self.name]

    def restore(self) -> list[str]:
        if self._now() == self._version:
            return []
        if self._copy is None or self._copy.shape != self._tensor.shape:
            return [self.name]
        with torch.no_grad():
            self._tensor.copy_(self._copy)
        self._version = self._now()
        return []


class _Array:
    """An array's numbers: all of a small one, some of a large one."""

    def __init__(self, name: str, array: np.ndarray, copied: bool) -> None:
        self.name, self._array = name, array
        self._places = range(0, array.size, max(1, array.size // 256))
        self._copy = array.copy() if copied and array.dtype != object else None
        self._sample = self._now()

    def _now(self) -> bytes:
        if self._array.dtype == object:
            return b""
        if self._copy is not None:
            return self._array.tobytes()
        return self._array.flat[[*self._places]].tobytes() if self._array.size else b""

    def changes(self) -> list[str]:
        return [] if self._now() == self._sample else [self.name]

    def restore(self) -> list[str]:
        if not self.changes():
            return []
        if self._copy is None or self._copy.shape != self._array.shape:
            return [self.name]
        self._array[...] = self._copy
        return []


# ---- what counts as what


def user_modules() -> dict[str, ModuleType]:
    """Return the imported modules that are no library's, by name."""
    return _user_modules(len(sys.modules))


@lru_cache(maxsize=1)
def _user_modules(count: int) -> dict[str, ModuleType]:
    modules = {}
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] in _OURS or not isinstance(module, ModuleType):
            continue
        file = vars(module).get("__file__")
        if isinstance(file, str) and not _is_library(file):
            modules[module.__name__] = module
    return modules


_OURS = (
    "__main__",
    "scattershot",
    "scattershot_common",
    "scattershot_worker",
    "scattershot_master",
)


@cache
def _is_library(file: str) -> bool:
    if {"site-packages", "dist-packages"} & {*Path(file).parts}:
        return True
    return any(file.startswith(folder + "/") for folder in _library_folders())


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@cache
def _is_cached_property(kind: type, name: str) -> bool:
    return isinstance(getattr(kind, name, None), cached_property)


def _same(before: object, now: object) -> bool:
    """Return whether a value is the same object, or as plain and equal."""
    if before is now:
        return True
    if type(before) is not type(now):
        return False
    if isinstance(before, tuple) and isinstance(now, tuple):
        return len(before) == len(now) and all(map(_same, before, now))
    return isinstance(before, _PLAIN) and (before == now or before != before)


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
    return numbers or isinstance(value, _PLAIN) or _is_data(value)
