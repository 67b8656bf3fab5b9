"""Owns the hyperparameters that the trainer itself reads: their names, bounds and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from scattershot_worker.training import bounds
from scattershot_worker.training.initialization import INITIALIZATIONS
from scattershot_worker.training.schedules import SCHEDULES

PRECISIONS = ("float32", "bf16", "fp16")
_INITS = ("default", *INITIALIZATIONS)
_CHECKS: dict[str, bounds.Check] = {
    "batch_size": bounds.COUNT,
    "schedule": (lambda v: v in SCHEDULES, "one of " + ", ".join(SCHEDULES)),
    "warmup": bounds.FRACTION,
    "drop_every": bounds.INSIDE,
    "drop_factor": bounds.INSIDE,
    "final_factor": bounds.PART,
    "patience": bounds.COUNT,
    "cycles": bounds.COUNT,
    "final_momentum": bounds.FRACTION,
    "label_smoothing": bounds.FRACTION,
    "clip_norm": bounds.POSITIVE,
    "clip_value": bounds.POSITIVE,
    "ema": bounds.INSIDE,
    "decay_all": bounds.SWITCH,
    "init": (lambda v: v in _INITS, "one of " + ", ".join(("default", *INITIALIZATIONS))),
    "early_stopping": bounds.COUNT,
    "accumulate": bounds.COUNT,
    "precision": (lambda v: v in PRECISIONS, "one of float32, bf16, fp16"),
    "compile": bounds.SWITCH,
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
        bounds.require(given, _CHECKS)
        return cls(**given)

    @property
    def moves(self) -> bool:
        """Whether a step must know where it is in its epoch, since something changes there."""
        steady = self.schedule in ("constant", "plateau") and self.accumulate == 1
        return not steady or self.warmup > 0 or self.final_momentum is not None
