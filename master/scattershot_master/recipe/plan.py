"""Owns the study files of a recipe: the one that is searched, and the one arrived at.

Tables in, tables out: nothing is read or run here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scattershot_common.space.axis import Axis, same
from scattershot_common.space.space import Box, Space
from scattershot_common.study.settings import StudyFile
from scattershot_common.study.study_file import KNOWN
from scattershot_master.state.borders import ends

Tables = dict[str, Any]

#: What is fine beside coarse, where the study file has no refined stage: trials and epochs.
_FINE_TRIALS, _FINE_EPOCHS = 0.5, 4
#: The part of the trials around which the next box is laid, as `refine` in a stage.
REFINE = 0.25
#: How many of the best go on to the end, and for how many times the epochs.
_FINALISTS, _LONGER = 5, 2


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
    """Return whether the recipe may set the range of `lr`: it is one, or there is none yet."""
    axis = next((axis for axis in study.space.axes if axis.name == "lr"), None)
    return axis.kind == "continuous" if axis else "lr" not in study.space.fixed


def arrived(study: StudyFile, searched: StudyFile, box: Box, epochs: int) -> Tables:
    """Return the study arrived at: the box of `searched`'s space, trained for `epochs` and more."""
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

    Dimensions whose condition can hold no more are left out.

    >>> table = {"lr": {"loguniform": [1e-4, 1.0]}, "act": {"choice": ["relu", "elu"]}}
    >>> narrowed(Space.parse(table), table, Box((((0.25, 0.5),), ((0.5, 1.0),))))
    {'lr': {'loguniform': [0.001, 0.01]}, 'act': {'choice': ['elu']}}
    """
    result = dict(table)
    for axis, side in zip(space.axes, box.sides, strict=True):
        result[axis.name] = _entry(axis, table[axis.name], side)
    while True:
        known = Space.parse({name: _without(entry) for name, entry in result.items()})
        dropped = [
            name
            for name, entry in result.items()
            if isinstance(entry, dict) and not _can_hold(known, result, entry.get("when", {}))
        ]
        if not dropped:
            return {name: _shortened(known, entry) for name, entry in result.items()}
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
    kept: Tables = {k: value for k, value in entry.items() if k not in ("widen", "step")}
    if "step" in entry and entry["step"] <= high - low:
        kept["step"] = entry["step"]
    return {**kept, kind: [low, high]}


def _outwards(low: float, high: float) -> tuple[float, float]:
    """Return the ends with two digits, if these lie around them and apart, else with four."""
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
    """Return a dimension whose conditions name only values that there are."""
    if not isinstance(entry, dict) or "when" not in entry:
        return entry
    when = {
        parent: [value for value in _listed(allowed) if _takes(space, parent, value)]
        for parent, allowed in entry["when"].items()
    }
    return {**entry, "when": {k: v[0] if len(v) == 1 else v for k, v in when.items()}}


def _listed(allowed: Any) -> list[Any]:
    return allowed if isinstance(allowed, list) else [allowed]
