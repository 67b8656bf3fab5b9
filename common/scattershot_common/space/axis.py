"""One searched dimension: the map between unit coordinates and values."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import exp, floor, isnan, log
from typing import Literal

from scattershot_common.trial import Value


def same(a: object, b: object) -> bool:
    """Return whether two values are the same: 1 is 1.0, but neither is true."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def grid(low: float, step: float, index: int) -> float:
    """Return low + index * step by the decimals the user wrote, of the type of `low`.

    >>> grid(0.0, 0.1, 3), 0.0 + 3 * 0.1
    (0.3, 0.30000000000000004)
    """
    return type(low)(Fraction(repr(low)) + index * Fraction(repr(step)))


def steps(low: float, high: float, step: float) -> int:
    """Return how many whole steps lie between `low` and `high`, by their decimals.

    >>> steps(0.0, 0.3, 0.1), int(0.3 / 0.1)
    (3, 2)
    """
    return int((Fraction(repr(high)) - Fraction(repr(low))) / Fraction(repr(step)))


@dataclass(frozen=True)
class Axis:
    """One searched dimension.

    `low` and `high` are the least and the greatest value drawn (of a choice: the first and the
    last index). A dimension with `cells` divides [0, 1) into half-open cells, one for each value;
    without, the map is continuous. `limits` are the values up to which a box may be widened over
    `low` and `high`; None where it may not.

    >>> lr = Axis("lr", "continuous", 0.01, 1.0, log=True, limits=(0.001, 10.0))
    >>> lr.at(0.0), round(lr.at(0.5), 9), lr.at(1.0), lr.at(2.0)
    (0.01, 0.1, 1.0, 10.0)
    """

    name: str
    kind: Literal["continuous", "integer", "choice"]
    low: float
    high: float
    log: bool = False
    step: float | None = None
    choices: tuple[Value, ...] = ()
    limits: tuple[float, float] | None = None

    @cached_property
    def cells(self) -> int:
        """The number of values in the declared range; 0 where they are a continuum."""
        continuum = self.kind == "continuous" and self.step is None
        return 0 if continuum else self._index_of(self.high) + 1

    @cached_property
    def reach(self) -> tuple[float, float]:
        """The unit coordinates up to which a box may be widened; (0, 1) is not at all."""
        low, high = self.limits or (self.low, self.high)
        if not self.cells:
            return min(0.0, self._coordinate(low)), max(1.0, self._coordinate(high))
        return self._edge(self._index_of(low)), self._edge(self._index_of(high) + 1)

    def at(self, u: float) -> Value:
        """Return the value at unit coordinate `u`.

        Inside [0, 1] it never leaves [low, high]; outside it goes on as far as `reach`. Raises
        ValueError for NaN.
        """
        if self.cells:
            return self._value(self.index(u))
        first, last, low, high = self._ends(u)
        if not first < u < last:  # the ends are exact, without rounding
            return low if u <= first else high
        start, width = self._line
        x = start + u * width
        return min(max(exp(x) if self.log else x, low), high)

    def locate(self, value: Value) -> float:
        """Return the unit coordinate of `value`: exact for a continuum, else its cell's centre.

        Raises ValueError for a value of the wrong type and for a choice that is not listed.
        """
        if self.kind == "choice":
            for index, choice in enumerate(self.choices):
                if same(choice, value):
                    return sum(self.cell(index)) / 2
            raise ValueError(f"{self.name}: {value!r} is none of its choices")
        if isinstance(value, bool | str) or isnan(value) or (self.log and value <= 0):
            raise ValueError(f"{self.name}: {value!r} does not lie on this axis")
        if self.cells:
            return sum(self.cell(self._index_of(value))) / 2
        return self._coordinate(value)

    def index(self, u: float) -> int:
        """Return the index of the cell that holds `u`; below 0 or past `cells` when widened.

        Raises ValueError for NaN.
        """
        first, last, *ends = self._ends(u)
        u = min(max(u, first), last)
        low, high = map(self._index_of, ends)
        if self.log:
            start, width = self._line
            guess = (exp(start + u * width) - exp(start)) / self._step
        else:
            guess = u * self.cells
        index = min(max(floor(guess), low), high)
        # `guess` is rounded; the edges decide, so that they agree with the intervals of a box
        while index > low and u < self._edge(index):
            index -= 1
        while index < high and u >= self._edge(index + 1):
            index += 1
        return index

    def cell(self, index: int) -> tuple[float, float]:
        """Return the unit interval [a, b) of the cell `index`."""
        return self._edge(index), self._edge(index + 1)

    def can_be(self, value: object) -> bool:
        """Return whether a dimension with cells can have `value`, widened or not."""
        if self.kind == "choice":
            return any(same(choice, value) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.limits or (self.low, self.high)
        return low <= value <= high and same(self._value(self._index_of(value)), value)

    @property
    def _step(self) -> float:
        return self.step or 1

    @cached_property
    def _line(self) -> tuple[float, float]:
        """Start and width of the unit interval on the linear or log number line."""
        low, high = self.low, self.high
        if self.cells:  # the ends' cells reach half a step out: the ends get their fair share
            low, high = low - self._step / 2, high + self._step / 2
        if self.log:
            low, high = log(low), log(high)
        return low, high - low

    def _ends(self, u: float) -> tuple[float, float, float, float]:
        """Return where the map ends: two coordinates, two values (limits apply outside [0, 1])."""
        if isnan(u):
            raise ValueError(f"{self.name}: NaN is no coordinate")
        if self.limits is None or 0 <= u <= 1:
            return 0.0, 1.0, self.low, self.high
        return *self.reach, *self.limits

    def _coordinate(self, value: float) -> float:
        start, width = self._line
        return ((log(value) if self.log else value) - start) / width

    def _edge(self, index: int) -> float:
        if self.log:
            return self._coordinate(self.low + (index - 0.5) * self._step)
        return index / self.cells

    def _index_of(self, value: float) -> int:
        return round((value - self.low) / self._step)

    def _value(self, index: int) -> Value:
        if self.kind == "choice":
            return self.choices[index]
        return grid(self.low, self._step, index)
