"""What a new stage starts from: the narrowed box of `refine`, the trials of `continue`.

CS231n, "Hyperparameter optimization": "Stage your search from coarse to fine."
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isnan

from scattershot_common.space.space import Axis, Box, Space
from scattershot_common.trial import Value
from scattershot_master.state.border_warnings import (
    SIDES,
    Interval,
    Side,
    crowd,
    ends,
    inside,
    number,
    outer_share,
    span,
)

#: A stage shrinks a side at most tenfold: the ranks of a few noisy trials allow no more.
LEAST_WIDTH = 0.1
#: The best trial sits on a border when it lies in this outer share of the side.
ON_BORDER = 0.05
#: A side is widened over its border by this share of its width.
WIDEN = 0.25
#: As many of the best as the border warning looks at.
CROWD = 5


@dataclass(frozen=True, slots=True)
class Narrowing:
    """The next stage's box, and a sentence for the user for every side that changed."""

    box: Box
    notes: tuple[str, ...]


def select_continue(ranked: Sequence[int], n: int) -> list[int]:
    """Return the `n` best of the trials `ranked` (best first), all where there are fewer."""
    return list(ranked[:n])


def refine(
    space: Space, box: Box, ranked: Sequence[Mapping[str, Value]], fraction: float
) -> Narrowing:
    """Return the box around the best `fraction` of the points `ranked` (at least two of them).

    `ranked` are the hyperparameters of the trials with a finite result, best first; `box` is what
    they were drawn from. Each ordered side runs from the least to the greatest coordinate of the
    best and half a mean gap between them further: the good region's edge lies somewhere in the gap
    to the next point, its middle is the guess with the least error. It keeps a tenth of its width.

    A side is widened by a quarter of its width over an end where the very best trial lies in the
    outer 5% (on the outermost value, where values are few), or where the five best crowd
    (`borders.crowd`). Over the declared range that goes as far as the axis' reach; from inside it,
    as far as the declared range.

    A choice keeps the values that occur among the best. A side on which fewer than two of the best
    have a coordinate stays.

    >>> space = Space.parse({"lr": {"loguniform": [1e-4, 1.0]}, "act": {"choice": ["relu", "elu"]}})
    >>> ranked = [{"lr": lr, "act": "relu"} for lr in (1e-2, 3e-2, 3e-3)]
    >>> refine(space, space.whole(), [*ranked, {"lr": 1.0, "act": "elu"}], 0.75).notes
    ('lr: [0.0001, 1] → [0.00169, 0.0533]', 'act: kept relu of relu, elu')
    """
    points = [space.locate(params) for params in ranked]
    # the small amount taken off keeps 0.1 · 30 at 3
    best = points[: max(2, ceil(fraction * len(points) - 1e-9))]
    sides: list[tuple[Interval, ...]] = []
    notes: list[str] = []
    for index, (axis, old) in enumerate(zip(space.axes, box.sides, strict=True)):
        coordinates = [point[index] for point in best if not isnan(point[index])]
        if axis.kind == "choice":
            new = tuple(axis.cell(i) for i in sorted({axis.index(u) for u in coordinates})) or old
            if len(new) < len(old):
                notes.append(f"{axis.name}: kept {_choices(axis, new)} of {_choices(axis, old)}")
        else:
            leaders = [point[index] for point in points[:CROWD]]
            side, side_notes = _refine_side(axis, old[0], coordinates, leaders)
            new = (side,)
            notes += side_notes
        sides.append(new)
    return Narrowing(Box(tuple(sides)), tuple(notes))


def _refine_side(
    axis: Axis, old: Interval, coordinates: Sequence[float], leaders: Sequence[float]
) -> tuple[Interval, list[str]]:
    """Return an ordered axis' next side and its notes; `coordinates` are the best's, best first."""
    if len(coordinates) < 2:
        return _snap(axis, (min([old[0], *coordinates]), max([old[1], *coordinates]))), []
    low, high = _snap(axis, _around(coordinates, old))
    notes = []
    seen = crowd(axis, old, leaders)
    for end in SIDES:
        if seen and seen.side == end:
            why = str(seen)
        elif outer_share(axis, old, coordinates[0], end, whole_cell=False) <= ON_BORDER:
            why = "the best lies there"
        else:
            continue
        edge = _widened(axis, old, end)
        low, high = min(low, edge), max(high, edge)
        if edge not in old:
            value = ends(axis, (low, high))[end == "high"]
            border = "upper" if end == "high" else "lower"
            notes.append(
                f"{axis.name} widened over its {border} border to {number(value)} since {why}"
            )
    if span(axis, (low, high)) != span(axis, old):  # to the digits shown
        notes.insert(0, f"{axis.name}: {span(axis, old)} → {span(axis, (low, high))}")
    return (low, high), notes


def _around(coordinates: Sequence[float], old: Interval) -> Interval:
    """Return the interval around the coordinates, with its margin and its least width.

    It stays inside the declared range, or inside `old` where that was widened over it.
    """
    first, last = min(coordinates), max(coordinates)
    least = LEAST_WIDTH * (old[1] - old[0])
    margin = (last - first) / (len(coordinates) - 1) / 2
    margin = max(margin, (least - (last - first)) / 2)
    floor, ceiling = min(0.0, old[0], first), max(1.0, old[1], last)
    low, high = first - margin, last + margin
    if low < floor:
        low, high = floor, max(high, floor + least)
    if high > ceiling:
        low, high = max(floor, min(low, ceiling - least)), ceiling
    return low, high


def _snap(axis: Axis, side: Interval) -> Interval:
    """Return `side` with its ends on the nearest edges of the axis' cells, if it has cells."""
    if not axis.cells:
        return side
    first, last = (axis.cell(axis.index(u)) for u in inside(side))
    # a cell of which half is inside counts as inside, with a tolerance for rounding
    return (
        first[0] if side[0] <= sum(first) / 2 + 1e-9 else first[1],
        last[1] if side[1] >= sum(last) / 2 - 1e-9 else last[0],
    )


def _widened(axis: Axis, side: Interval, end: Side) -> float:
    """Return where `end` of `side` lies when widened, as a whole cell where there are any.

    From inside the declared range that is at most its end, else at most the axis' reach.
    """
    low, high = side
    by = WIDEN * (high - low)
    if end == "low":
        low = max(low - by, 0.0 if low > 0 else axis.reach[0])
    else:
        high = min(high + by, 1.0 if high < 1 else axis.reach[1])
    if axis.cells:
        first, last = (axis.cell(axis.index(u)) for u in inside((low, high)))
        low, high = first[0], last[1]
    return low if end == "low" else high


def _choices(axis: Axis, side: Sequence[Interval]) -> str:
    return ", ".join(str(axis.choices[axis.index(low)]) for low, _ in side)
