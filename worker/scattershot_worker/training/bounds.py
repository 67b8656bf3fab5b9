"""Owns what the values of hyperparameters may be, and how it is said that one may not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from scattershot_common.errors import TaskError

#: Whether a value fits, and what is allowed, in words.
Check = tuple[Callable[[Any], bool], str]


def _is_number(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return math.isfinite(value)


FRACTION: Check = (lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 up to, not with, 1")
PART: Check = (lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
INSIDE: Check = (lambda v: _is_number(v) and 0 < v < 1, "a number between 0 and 1")
POSITIVE: Check = (lambda v: _is_number(v) and v > 0, "a number above 0")
NOT_NEGATIVE: Check = (lambda v: _is_number(v) and v >= 0, "a number, 0 or more")
COUNT: Check = (lambda v: type(v) is int and v >= 1, "a whole number, at least 1")
SWITCH: Check = (lambda v: isinstance(v, bool), "true or false")


class OutOfBounds(TaskError):
    """A hyperparameter has a value that is not allowed; says which are."""


def require(values: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Raise OutOfBounds for a value that is not allowed."""
    for name, value in values.items():
        fits, allowed = checks[name]
        if not fits(value):
            raise OutOfBounds(f"the hyperparameter {name} must be {allowed} (found {value!r})")
