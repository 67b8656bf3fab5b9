"""Owns the hyperparameters that the trainer itself reads: their names, bounds and defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from scattershot.errors import TaskError
from scattershot_worker.initialization import INITIALIZATIONS
from scattershot_worker.schedules import SCHEDULES

_Check = tuple[Callable[[Any], bool], str]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_FRACTION: _Check = (lambda v: _is_number(v) and 0 <= v < 1, "a number from 0 up to, not with, 1")
_PART: _Check = (lambda v: _is_number(v) and 0 <= v <= 1, "a number from 0 to 1")
_INSIDE: _Check = (lambda v: _is_number(v) and 0 < v < 1, "a number between 0 and 1")
_POSITIVE: _Check = (lambda v: _is_number(v) and v > 0, "a number above 0")
_COUNT: _Check = (lambda v: type(v) is int and v >= 1, "a whole number, at least 1")
_SWITCH: _Check = (lambda v: isinstance(v, bool), "true or false")
PRECISIONS = ("float32", "bf16", "fp16")
_INITS = ("default", *INITIALIZATIONS)
_CHECKS: dict[str, _Check] = {
    "batch_size": _COUNT,
    "schedule": (lambda v: v in SCHEDULES, "one of " + ", ".join(SCHEDULES)),
    "warmup": _FRACTION,
    "drop_every": _INSIDE,
    "drop_factor": _INSIDE,
    "final_factor": _PART,
    "patience": _COUNT,
    "cycles": _COUNT,
    "final_momentum": _FRACTION,
    "label_smoothing": _FRACTION,
    "clip_norm": _POSITIVE,
    "clip_value": _POSITIVE,
    "ema": _INSIDE,
    "decay_all": _SWITCH,
    "init": (lambda v: v in _INITS, "one of " + ", ".join(("default", *INITIALIZATIONS))),
    "early_stopping": _COUNT,
    "accumulate": _COUNT,
    "precision": (lambda v: v in PRECISIONS, "one of float32, bf16, fp16"),
    "compile": _SWITCH,
}


@dataclass(frozen=True)
class Hyperparameters:
    """What the trainer does with a trial besides its optimizer; see docs/hyperparameters.md.

    All are off unless a study names them, but that biases and norms do not decay.
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
        given = {one.name: params[one.name] for one in fields(cls) if one.name in params}
        for name, value in given.items():
            fits, allowed = _CHECKS[name]
            if not fits(value):
                raise TaskError(f"the hyperparameter {name} must be {allowed} (found {value!r})")
        return cls(**given)

    @property
    def moves(self) -> bool:
        """Whether a step must know where it is in its epoch, since something changes there."""
        steady = self.schedule in ("constant", "plateau") and self.accumulate == 1
        return not steady or self.warmup > 0 or self.final_momentum is not None
