"""The hyperparameters that the trainer itself reads: names, bounds and defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from scattershot_common.errors import TaskError
from scattershot_worker.training.initialization import INITIALIZATIONS
from scattershot_worker.training.schedules import SCHEDULES

#: Whether a value is allowed, and what is, in words.
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
    """A hyperparameter has a value that is not allowed; says what is."""


def require(values: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Raise OutOfBounds for a value that its check does not allow."""
    for name, value in values.items():
        fits, allowed = checks[name]
        if not fits(value):
            raise OutOfBounds(f"the hyperparameter {name} must be {allowed} (found {value!r})")


PRECISIONS = ("float32", "bf16", "fp16")
_INITS = ("default", *INITIALIZATIONS)
_CHECKS: dict[str, Check] = {
    "batch_size": COUNT,
    "schedule": (lambda v: v in SCHEDULES, "one of " + ", ".join(SCHEDULES)),
    "warmup": FRACTION,
    "drop_every": INSIDE,
    "drop_factor": INSIDE,
    "final_factor": PART,
    "patience": COUNT,
    "cycles": COUNT,
    "final_momentum": FRACTION,
    "label_smoothing": FRACTION,
    "clip_norm": POSITIVE,
    "clip_value": POSITIVE,
    "ema": INSIDE,
    "decay_all": SWITCH,
    "init": (lambda v: v in _INITS, "one of " + ", ".join(("default", *INITIALIZATIONS))),
    "early_stopping": COUNT,
    "accumulate": COUNT,
    "precision": (lambda v: v in PRECISIONS, "one of float32, bf16, fp16"),
    "compile": SWITCH,
}


@dataclass(frozen=True)
class Hyperparameters:
    """What the trainer does with a trial besides its optimizer; see docs/hyperparameters.md.

    All are off unless a study names them; biases and norms do not decay by default.
    """

    batch_size: int = 32
    schedule: str = "constant"
    warmup: float = 0.0
    drop_every: float = 1 / 3
    drop_factor: float = 0.1
    final_factor: float | None = None
    patience: int = 2
    cycles: int = 3
    final_momentum: float | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: float | None = None
    decay_all: bool = False
    init: str = "default"
    early_stopping: int | None = None
    accumulate: int = 1
    precision: str = "float32"
    compile: bool = False

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Hyperparameters:
        """Read them from a trial's hyperparameters.

        Raises:
            TaskError: one is outside its bounds; says what is allowed.
        """
        given = {field.name: params[field.name] for field in fields(cls) if field.name in params}
        require(given, _CHECKS)
        return cls(**given)

    @property
    def moves(self) -> bool:
        """Whether something changes from step to step, so that each must know its place."""
        steady = self.schedule in ("constant", "plateau") and self.accumulate == 1
        return not steady or self.warmup > 0 or self.final_momentum is not None
