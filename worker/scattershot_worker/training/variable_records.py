"""Records of single variables, by kind: what has changed since, and how that is undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, cached_property
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

#: Types whose values are compared, and not searched.
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(...), torch.dtype, torch.device)
_ABSENT = object()


class Record(Protocol):
    """An object as it was recorded."""

    def changes(self) -> list[str]:
        """Return the names of what has changed."""

    def restore(self) -> list[str]:
        """Undo the changes; return the names of those that cannot be undone."""


class MappingRecord:
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
        """Return the names of what has changed."""
        return [self.label(key) for key in self.changed()]

    def restore(self) -> list[str]:
        """Undo the changes; return the names of those that cannot be undone."""
        for key in self.changed():
            if key in self.saved:
                self.values[key] = self.saved[key]
            else:
                del self.values[key]
        return []


class NamespaceRecord(MappingRecord):
    """The attributes of an instance, or the globals of a module."""

    def __init__(self, name: str, values: dict[str, Any], owner: type | None) -> None:
        self._owner = owner
        super().__init__(name, values)

    def counts(self, key: Any, value: object) -> bool:
        """Return whether an attribute is recorded: none of Python's own, no import, no cache."""
        if isinstance(key, str) and key.startswith("__"):
            return False
        # what a function imports, and what a property keeps
        return not (
            isinstance(value, ModuleType)
            or (self._owner is not None and _is_cached_property(self._owner, key))
        )

    def label(self, key: Any) -> str:
        """Return the name of an attribute."""
        return f"{self.name}.{key}"


class ClassRecord:
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
        """Return the names of what has changed."""
        return [f"{self.name}.{key}" for key in self._changed()]

    def restore(self) -> list[str]:
        """Undo the changes; return the names of those that cannot be undone."""
        for key in self._changed():
            if key in self.saved:
                setattr(self._kind, key, self.saved[key])
            else:
                delattr(self._kind, key)
        return []


class ItemsRecord:
    """The items of a list, a set or a deque."""

    def __init__(self, name: str, items: Any) -> None:
        self.name, self._items, self._saved = name, items, [*items]

    def changes(self) -> list[str]:
        """Return the names of what has changed."""
        if len(self._items) == len(self._saved):
            if isinstance(self._items, set):
                if self._items == {*self._saved}:
                    return []
            elif all(map(_same, self._items, self._saved)):
                return []
        return [self.name]

    def restore(self) -> list[str]:
        """Undo the changes; return the names of those that cannot be undone."""
        if self.changes():
            self._items.clear()
            if isinstance(self._items, set):
                self._items.update(self._saved)
            else:
                self._items.extend(self._saved)
        return []


class LengthRecord:
    """A container of too many entries to record them."""

    def __init__(self, name: str, items: Any) -> None:
        self.name, self._items, self._length = name, items, len(items)

    def changes(self) -> list[str]:
        """Return the names of what has changed."""
        return [] if len(self._items) == self._length else [self.name]

    def restore(self) -> list[str]:
        """Undo the changes; return the names of those that cannot be undone."""
        return self.changes()


class TensorRecord:
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
        """Return the names of what has changed."""
        return [] if self._now() == self._version else [self.name]

    def restore(self) -> list[str]:
        """Undo the changes; return the names of those that cannot be undone."""
        if self._now() == self._version:
            return []
        if self._copy is None or self._copy.shape != self._tensor.shape:
            return [self.name]
        with torch.no_grad():
            self._tensor.copy_(self._copy)
        self._version = self._now()
        return []


class ArrayRecord:
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
        """Return the names of what has changed."""
        return [] if self._now() == self._sample else [self.name]

    def restore(self) -> list[str]:
        """Undo the changes; return the names of those that cannot be undone."""
        if not self.changes():
            return []
        if self._copy is None or self._copy.shape != self._array.shape:
            return [self.name]
        self._array[...] = self._copy
        return []


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
    return isinstance(before, PLAIN) and (before == now or before != before)
