"""A trial: one point of the space, its states, and the record of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from scattershot_common.seeds import derive

#: A hyperparameter's value. Everything here survives JSON and TOML unchanged.
Value = float | int | bool | str

State = Literal["waiting", "running", "paused", "complete", "killed", "failed"]
STATES: tuple[State, ...] = get_args(State)
#: States a trial never leaves (a complete one may, when a later stage continues it).
ENDED: frozenset[State] = frozenset({"complete", "killed", "failed"})

#: One record of a trial's history: "epoch" (from 1) and the metrics reported for it.
Epoch = Mapping[str, float]
#: The metrics that depend on the machine: for people, never for decisions or comparisons.
MEASURED = ("seconds", "examples_per_second", "memory_mb")


def trial_seed(study_seed: int, number: int) -> int:
    """Return the seed of a trial: weights, data order and dropout all derive from it."""
    return derive(study_seed, "trial", number)
