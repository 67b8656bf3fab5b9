"""The search space: the map from the unit cube to hyperparameters, and boxes in the cube."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, nextafter
from typing import Any

from scattershot_common.errors import StudyFileError
from scattershot_common.space.axis import Axis, same
from scattershot_common.space.parse import parse_space
from scattershot_common.trial import Value

__all__ = ["Axis", "Box", "Space"]


@dataclass(frozen=True)
class Box:
    """A part of the unit cube (or of its widened surroundings) to draw points from.

    `sides` has one entry for each axis: disjoint ascending intervals [a, b) of unit coordinates,
    one for an ordered axis, one for each kept choice of a choice.

    >>> Box((((0.25, 0.75),), ((0.0, 0.25), (0.5, 0.75)))).at([0.5, 0.75])
    [0.5, 0.625]
    """

    sides: tuple[tuple[tuple[float, float], ...], ...]

    def __post_init__(self) -> None:
        for side in self.sides:
            ends = [end for interval in side for end in interval]
            if not ends or ends != sorted(ends) or not all(map(isfinite, ends)):
                raise ValueError(f"a side of a box is no ascending list of intervals: {side!r}")

    def at(self, u: Sequence[float]) -> list[float]:
        """Stretch a point of [0, 1)^d over the box.

        A coordinate runs through the union of its axis' intervals in proportion to their length.
        Raises ValueError where `u` has not one coordinate in [0, 1) for each axis.
        """
        if len(u) != len(self.sides) or not all(0 <= x < 1 for x in u):
            raise ValueError(f"{u!r} is no point of [0, 1)^{len(self.sides)}")
        return [_stretch(x, side) for x, side in zip(u, self.sides, strict=True)]

    def to_json(self) -> list[Any]:
        """Return the sides as nested lists, exact through JSON."""
        return [[list(interval) for interval in side] for side in self.sides]

    @classmethod
    def from_json(cls, sides: Sequence[Any]) -> Box:
        """Return the box that `to_json` described. Raises ValueError if it is none."""
        return cls(tuple(tuple((float(a), float(b)) for a, b in side) for side in sides))


def _stretch(u: float, side: Sequence[tuple[float, float]]) -> float:
    left = u * sum(b - a for a, b in side)
    if all(a == b for a, b in side):
        return side[int(u * len(side))][0]  # only single points
    for low, high in side:
        if left < high - low:
            return min(low + left, _below(low, high))
        left -= high - low
    return _below(low, high)


def _below(low: float, high: float) -> float:
    """The last coordinate of [low, high): `high` itself may belong to a choice that is out."""
    return nextafter(high, low)


@dataclass(frozen=True)
class Space:
    """The hyperparameters of a study, as a map from the unit cube.

    `axes` are the searched dimensions in the order of the file: a unit point has one coordinate
    for each. `fixed` values have no coordinate. `when` names the parents of a conditional
    parameter and the values that each must have for it to exist; it does not exist where a
    parent does not. `names` are all parameters in the order of the file.

    >>> space = Space.parse({
    ...     "lr": {"loguniform": [1e-4, 1.0]},
    ...     "optimizer": {"choice": ["sgd", "adamw"]},
    ...     "momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": "sgd"}},
    ... })
    >>> space.at([1.0, 0.0, 0.0])
    {'lr': 1.0, 'optimizer': 'sgd', 'momentum': 0.5}
    >>> space.at([0.0, 0.9, 0.0])
    {'lr': 0.0001, 'optimizer': 'adamw'}
    >>> space.locate({'lr': 0.01, 'optimizer': 'adamw'})
    [0.5, 0.75, nan]
    """

    axes: tuple[Axis, ...]
    fixed: dict[str, Value]
    when: dict[str, dict[str, tuple[Value, ...]]]
    names: tuple[str, ...]

    @classmethod
    def parse(cls, table: Mapping[str, object]) -> Space:
        """Read the [space] table of a study file.

        Raises StudyFileError with one line for each problem, naming its key
        ("space.lr.loguniform").
        """
        parsed = parse_space(table)
        if parsed.problems:
            raise StudyFileError("\n".join(map(str, parsed.problems)))
        return cls(tuple(parsed.axes), parsed.fixed, parsed.when, tuple(table))

    def at(self, point: Sequence[float]) -> dict[str, Value]:
        """Return the hyperparameters at a unit point, those only whose conditions hold.

        A coordinate outside [0, 1] goes on as far as its axis' reach. That of a parameter which
        does not exist there may be NaN; ValueError is raised for any other, or for a point of
        another length.
        """
        coordinates = dict(zip((axis.name for axis in self.axes), point, strict=True))
        by_name = {axis.name: axis for axis in self.axes}
        values = dict(self.fixed)

        def value_of(name: str) -> Value:
            if name not in values:
                values[name] = by_name[name].at(coordinates[name])
            return values[name]

        return {name: value_of(name) for name in self.names if self._exists(name, value_of)}

    def locate(self, params: Mapping[str, Value]) -> list[float]:
        """Return the unit point of `params`.

        A continuous value gets its exact coordinate, any other its cell's centre; NaN stands for
        a parameter that does not exist under these. Values beyond the declared range get
        coordinates outside [0, 1]. Raises ValueError for a value that no point has.
        """
        return [
            axis.locate(params[axis.name])
            if axis.name in params and self._exists(axis.name, params.get)
            else nan
            for axis in self.axes
        ]

    def whole(self) -> Box:
        """Return the box of the whole declared range."""
        return Box(
            tuple(
                tuple(axis.cell(index) for index in range(axis.cells))
                if axis.kind == "choice"
                else ((0.0, 1.0),)
                for axis in self.axes
            )
        )

    def _exists(self, name: str, value_of: Callable[[str], object]) -> bool:
        return all(
            self._exists(parent, value_of)
            and any(same(value_of(parent), value) for value in allowed)
            for parent, allowed in self.when.get(name, {}).items()
        )
