"""What a recipe plans: the study it searches, for how long to train, the study it results in.

Functions over data: nothing is read or run here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scattershot_common.objective import Objective
from scattershot_common.space.axis import Axis, same
from scattershot_common.space.space import Box, Space
from scattershot_common.study.settings import StudyFile
from scattershot_common.study.study_file import KNOWN
from scattershot_master.state.border_warnings import ends

Tables = dict[str, Any]

#: The fine stage's trials and epochs as multiples of the coarse one's, where the study file has no
#: refined stage.
_FINE_TRIALS, _FINE_EPOCHS = 0.5, 4
#: The part of the trials around which the next box is laid, as `refine` in a stage.
REFINE = 0.25
#: The number of the best trials whose curves are read; more than half of them must agree.
BEST = 5
#: The number of trials in the final stage, and their epochs as a multiple of the fine stage's.
_FINALISTS, _LONGER = 5, 2

History = Sequence[Mapping[str, float]]


def search(
    study: StudyFile,
    rates: tuple[float, float] | None,
    *,
    trials: int | None = None,
    epochs: int | None = None,
) -> Tables:
    """Return the study that is searched: coarse, then fine, over `rates` where `lr` is searched.

    The stages take their sizes from the study's first stage and its first refined one, unless
    `trials` and `epochs` of the coarse stage are given.
    """
    tables = _tables(study)
    tables["study"]["name"] = f"{study.study.name}-search"
    if rates is not None:
        before = tables["space"].get("lr")
        when = {"when": before["when"]} if isinstance(before, dict) and "when" in before else {}
        tables["space"]["lr"] = {"loguniform": [*rates], **when}
    coarse = study.stages[0]
    fine = next((stage for stage in study.stages if stage.refine is not None), None)
    trials, epochs = trials or coarse.trials or 1, epochs or coarse.epochs
    if fine is None or (trials, epochs) != (coarse.trials, coarse.epochs):
        refined: Tables = {
            "refine": REFINE,
            "trials": max(round(trials * _FINE_TRIALS), 4),
            "epochs": epochs * _FINE_EPOCHS,
        }
    else:
        refined = {"refine": fine.refine, "trials": fine.trials, "epochs": fine.epochs}
    tables["stage"] = [
        {"name": "coarse", "trials": trials, "epochs": epochs},
        {"name": "fine", **refined},
    ]
    return tables


def searches_rates(study: StudyFile) -> bool:
    """Return whether the recipe may set the range of `lr`: it has a range, or is not given."""
    axis = next((axis for axis in study.space.axes if axis.name == "lr"), None)
    return axis.kind == "continuous" if axis else "lr" not in study.space.fixed


@dataclass(frozen=True)
class TrainingLength:
    """For how many epochs to train from here on, and why."""

    epochs: int
    reason: str
    decision: str


def training_length(
    histories: Sequence[History], objective: Objective, epochs: int
) -> TrainingLength:
    """Return for how long to train, by the curves of the best trials, `epochs` long.

    >>> history = [{"epoch": i, "val_accuracy": i / 10} for i in (1, 2, 3, 4)]
    >>> training_length([history], Objective("val_accuracy"), 4).epochs
    12
    """
    full = [history for history in histories[:BEST] if len(history) >= epochs] or [*histories[:1]]
    count = len(full)
    best = [(_best_epoch(history, objective), len(history)) for history in full]
    late = sum(epoch > 0.9 * length for epoch, length in best)
    early = sum(epoch <= 0.5 * length for epoch, length in best)
    if late > count / 2:
        reason = f"{late} of the {count} best are at their best in the last epoch"
        decision = "They still improve at the end: train longer."
        return TrainingLength(epochs * 3, reason, decision)
    if early > count / 2:
        reason = f"{early} of the {count} best are at their best in the first half"
        decision = "They have nothing more to gain: train no longer."
        return TrainingLength(max(epochs, 2), reason, decision)
    reason = f"the best epochs of the {count} best lie between half and the end"
    return TrainingLength(epochs * 2, reason, "The best came late: train a little longer.")


def _best_epoch(history: History, objective: Objective) -> float:
    """Return the first epoch with the best value; 0 where no value is finite."""
    scores = {
        line["epoch"]: objective.score(objective.of(line))
        for line in history
        if math.isfinite(objective.of(line))
    }
    return max(scores, key=lambda epoch: (scores[epoch], -epoch), default=0.0)


def result(study: StudyFile, searched: StudyFile, box: Box, epochs: int) -> Tables:
    """Return the study that a recipe results in: the box of `searched`, `epochs` and more."""
    tables = _tables(study)
    fine = searched.stages[-1]
    trials = fine.trials or 4
    tables["study"]["name"] = f"{study.study.name}-recipe"
    tables["space"] = narrowed(searched.space, searched.space_table, box)
    tables["stage"] = [
        {"name": "fine", "trials": trials, "epochs": epochs},
        {
            "name": "final",
            "continue": min(_FINALISTS, trials),
            "epochs": epochs * _LONGER,
            "kill": "none",
        },
    ]
    if not tables.get("kill", {}).get("rule"):
        tables["kill"] = {"rule": "halving"}
    return tables


def _tables(study: StudyFile) -> Tables:
    dumped = study.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    dumped["study"] |= {"metric": study.study.metric, "goal": study.study.goal}
    return {name: dumped[name] for name in KNOWN if name in dumped}


def narrowed(space: Space, table: Mapping[str, Any], box: Box) -> Tables:
    """Return the [space] table whose ranges are the sides of `box`, rounded outwards.

    Dimensions whose condition can no longer hold are left out.

    >>> table = {"lr": {"loguniform": [1e-4, 1.0]}, "act": {"choice": ["relu", "elu"]}}
    >>> narrowed(Space.parse(table), table, Box((((0.25, 0.5),), ((0.5, 1.0),))))
    {'lr': {'loguniform': [0.001, 0.01]}, 'act': {'choice': ['elu']}}
    """
    result = dict(table)
    for axis, side in zip(space.axes, box.sides, strict=True):
        result[axis.name] = _entry(axis, table[axis.name], side)
    while True:
        space_left = Space.parse({name: _without(entry) for name, entry in result.items()})
        dropped = [
            name
            for name, entry in result.items()
            if isinstance(entry, dict) and not _can_hold(space_left, result, entry.get("when", {}))
        ]
        if not dropped:
            return {name: _shortened(space_left, entry) for name, entry in result.items()}
        for name in dropped:
            del result[name]


def _entry(axis: Axis, entry: Mapping[str, Any], side: Sequence[tuple[float, float]]) -> Any:
    if axis.kind == "choice":
        choices = [axis.choices[axis.index((low + high) / 2)] for low, high in side]
        return {**entry, "choice": choices}
    low, high = ends(axis, side[0])
    if not axis.cells:
        low, high = _outwards(low, high)
    if low == high:
        return {"value": low, **({"when": entry["when"]} if "when" in entry else {})}
    kind = next(kind for kind in ("loguniform", "uniform", "integer") if kind in entry)
    narrowed: Tables = {k: value for k, value in entry.items() if k not in ("widen", "step")}
    if "step" in entry and entry["step"] <= high - low:
        narrowed["step"] = entry["step"]
    return {**narrowed, kind: [low, high]}


def _outwards(low: float, high: float) -> tuple[float, float]:
    """Return the ends rounded to two digits, or to four where two make them equal."""
    for digits in (2, 4):
        rounded = float(f"{low:.{digits}g}"), float(f"{high:.{digits}g}")
        if rounded[0] < rounded[1]:
            return rounded
    return low, high


def _without(entry: Any) -> Any:
    return {k: v for k, v in entry.items() if k != "when"} if isinstance(entry, dict) else entry


def _takes(space: Space, parent: str, value: Any) -> bool:
    axis = next((axis for axis in space.axes if axis.name == parent), None)
    return axis.can_be(value) if axis else same(space.fixed.get(parent), value)


def _can_hold(space: Space, table: Mapping[str, Any], when: Mapping[str, Any]) -> bool:
    return all(
        parent in table and any(_takes(space, parent, value) for value in _listed(allowed))
        for parent, allowed in when.items()
    )


def _shortened(space: Space, entry: Any) -> Any:
    """Return a dimension without the values in its conditions that no longer exist."""
    if not isinstance(entry, dict) or "when" not in entry:
        return entry
    when = {
        parent: [value for value in _listed(allowed) if _takes(space, parent, value)]
        for parent, allowed in entry["when"].items()
    }
    return {**entry, "when": {k: v[0] if len(v) == 1 else v for k, v in when.items()}}


def _listed(allowed: Any) -> list[Any]:
    return allowed if isinstance(allowed, list) else [allowed]
