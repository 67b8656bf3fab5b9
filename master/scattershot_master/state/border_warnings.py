"""Border warnings: the best trials crowd at the end of a range, so the range should be wider.

CS231n, "Hyperparameter optimization": "Careful with best values on border."
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf, isfinite, isnan, nextafter
from typing import Literal

from scattershot_common.space.space import Axis, Box, Space
from scattershot_common.trial import Value
from scattershot_master.state.progress import finite
from scattershot_master.state.study_state import StudyState, TrialRecord
from scattershot_master.state.tail_probability import binomial, hypergeometric

Side = Literal["low", "high"]
SIDES: tuple[Side, Side] = ("low", "high")
Interval = tuple[float, float]

#: Chance of a crowd at one end of an axis that has no effect: below 2.5%, so below 5% for an axis.
CHANCE = 0.025
#: Only what lies in the outer fifth of a range lies at its border.
BORDER = 0.2
#: Fewer trials than this are no crowd; a range of fewer values has no border.
LEAST_TRIALS, LEAST_VALUES = 3, 5
#: The same chance where values are only compared with those tried, for all axes of a space
#: together, and the trials that it takes.
RANKED_CHANCE, LEAST_RANKED = 0.01, 4


@dataclass(frozen=True, slots=True)
class Crowd:
    """`count` of the `of` best trials lie in the outer `share` (0..1) of a range, at its `side`.

    `outermost` is set where ranks show it: (n, N) says they are among the n outermost of N tried.
    """

    side: Side
    share: float
    count: int
    of: int
    outermost: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.outermost:
            way = "highest" if self.side == "high" else "lowest"
            few, tried = self.outermost
            return f"{self.count} of the {self.of} best are among the {few} {way} of {tried} values"
        outer = "top" if self.side == "high" else "bottom"
        percent = max(1, ceil(100 * self.share - 1e-9))
        return f"{self.count} of the {self.of} best lie in the {outer} {percent}%"


@dataclass(frozen=True, slots=True)
class BorderWarning:
    """A `Crowd` on the axis `axis`, with a sentence for the user that says what to do."""

    axis: str
    side: Side
    share: float
    count: int
    of: int
    text: str


def warnings(
    space: Space,
    box: Box,
    ranked: Sequence[Mapping[str, Value]],
    best: int = 5,
    *,
    fruitless: Sequence[Mapping[str, Value]] = (),
) -> list[BorderWarning]:
    """Warn of every ordered axis at whose end the `best` first of `ranked` (best first) crowd.

    `ranked` are the hyperparameters of the trials that were drawn from `box`, `fruitless` those of
    trials that came to no value. The rules are `crowd`'s, which on an axis without any effect
    fires in fewer than 5 of 100 studies, and `foremost`'s, in fewer than 1. Left out are
    ends that are natural, where no wider range could be asked for: 0 at the low end of a linear
    axis (dropout, decay), 1 at the high end of a continuous linear one (a share), 1 at the low end
    of an integer on a log scale.

    >>> space = Space.parse({"lr": {"loguniform": [1e-6, 10]}})
    >>> ranked = [{"lr": lr} for lr in (9.0, 1e-3, 8.0, 7.0, 1e-5)]
    >>> print(*warnings(space, space.whole(), ranked)[0].text.split(": "), sep="\\n")
    lr
    3 of the 5 best lie in the top 3% of the range [1e-06, 10]
    widen it upwards (to 100, say)
    """
    points = [space.locate(params) for params in (*ranked, *fruitless)]
    ordered = sum(axis.kind != "choice" for axis in space.axes)
    best = min(best, len(ranked))
    raised = []
    for index, axis in enumerate(space.axes):
        if axis.kind == "choice":
            continue
        side = box.sides[index][0]
        tried = [point[index] for point in points]
        found = crowd(axis, side, tried[:best])
        found = found or foremost(axis, side, tried[:best], tried, RANKED_CHANCE / ordered)
        if found and not _natural(axis, side, found.side):
            text = f"{axis.name}: {found} of the range {span(axis, side)}: "
            text += _remedy(axis, side, found.side)
            raised.append(
                BorderWarning(axis.name, found.side, found.share, found.count, found.of, text)
            )
    return raised


def crowd(axis: Axis, side: Interval, coordinates: Sequence[float]) -> Crowd | None:
    """Return the crowd that `coordinates` of the best trials form at an end of `side`, or None.

    NaN (the parameter does not exist there) is left out. For k coordinates and each majority m of
    them, s is the outer share of the range that holds m. Were they uniform over the range, at
    least m would lie there with P(Binomial(k, s) >= m). A crowd is an s of at most a fifth whose
    chance is at most 2.5% divided by the number of majorities tried: so, by Bonferroni, one end
    raises a false alarm in fewer than 2.5 and an axis in fewer than 5 of 100 studies. Of 5 this
    takes 3 in the outer 9.9% or 4 in the outer 20%; simulated, 2.6% false alarms an axis. A value
    of an axis with cells counts with its whole cell, which keeps the chance right for them, too.
    """
    active = [u for u in coordinates if not isnan(u)]
    if len(active) < LEAST_TRIALS or _values(axis, side) < LEAST_VALUES:
        return None
    majorities = range(len(active) // 2 + 1, len(active) + 1)
    for end in SIDES:
        shares = sorted(outer_share(axis, side, u, end) for u in active)
        outer = [m for m in majorities if shares[m - 1] <= BORDER + 1e-9]
        chance, count = min(
            ((binomial(len(active), shares[m - 1], m), m) for m in outer), default=(1, 0)
        )
        if chance <= CHANCE / len(majorities):
            return Crowd(end, shares[count - 1], count, len(active))
    return None


def foremost(
    axis: Axis, side: Interval, best: Sequence[float], tried: Sequence[float], chance: float
) -> Crowd | None:
    """Return the crowd that the best trials form at an end of what was `tried`, or None.

    A few trials leave gaps: of 24 the five at the end of a range fill a fifth of it, of 12 nearly
    a half. So ranks are compared: were the axis without effect, m or more of the k `best` would be
    among the n outermost of all N with the chance of a hypergeometric distribution. All but one
    must be, with a chance of at most `chance` for both ends. The very best must lie at the border,
    and none further out, or the optimum lies between. Simulated with 24 trials of 4 axes, together
    with `crowd`: 99% of the studies whose metric rises up to the border have a warning instead of
    76%, 31% instead of 27% of those with an optimum anywhere within the range, and 3% as before
    of those without an effect.
    """
    active = [u for u in best if not isnan(u)]
    known = [u for u in tried if not isnan(u)]
    if len(active) < LEAST_RANKED or _values(axis, side) < LEAST_VALUES:
        return None
    for end in SIDES:
        sign = 1 if end == "low" else -1
        inner = outer_share(axis, side, active[0], end, whole_cell=False) > BORDER
        if inner or any(sign * u < sign * active[0] for u in known):
            continue
        outer = sorted(active, key=lambda u: sign * u)
        for count in range(len(active), max(len(active) - 1, LEAST_RANKED) - 1, -1):
            last = outer[count - 1]
            few = sum(sign * u <= sign * last for u in known)
            if hypergeometric(len(known), few, len(active), count) <= chance / 2:
                share = outer_share(axis, side, last, end)
                return Crowd(end, share, count, len(active), (few, len(known)))
    return None


def span(axis: Axis, side: Interval) -> str:
    """Return the values that `side` spans, as text: "[1e-06, 10]"."""
    low, high = ends(axis, side)
    return f"[{number(low)}, {number(high)}]"


def ends(axis: Axis, side: Interval) -> tuple[float, float]:
    """Return the least and the greatest value of an ordered axis in `side`."""
    low, high = (axis.at(u) for u in (inside(side) if axis.cells else side))
    assert not isinstance(low, str) and not isinstance(high, str)
    return low, high


def inside(side: Interval) -> Interval:
    """Return the first and the last coordinate within `side`, so none of a cell next to it."""
    return nextafter(side[0], inf), nextafter(side[1], -inf)


def number(value: float) -> str:
    """Return a value for a sentence: integers whole, floats with three digits."""
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _values(axis: Axis, side: Interval) -> float:
    if not axis.cells:
        return LEAST_VALUES
    first, last = map(axis.index, inside(side))
    return last - first + 1


def outer_share(
    axis: Axis, side: Interval, u: float, end: Side, *, whole_cell: bool = True
) -> float:
    """Return the share of `side` that lies further out than `u`; 0 where `u` lies beyond it.

    The cell of `u`, on an axis with cells, is counted or is not.
    """
    first, last = axis.cell(axis.index(u)) if axis.cells else (u, u)
    if end == "low":
        distance = (last if whole_cell else first) - side[0]
    else:
        distance = side[1] - (first if whole_cell else last)
    return min(max(distance / (side[1] - side[0]), 0.0), 1.0)


def _natural(axis: Axis, side: Interval, end: Side) -> bool:
    value = ends(axis, side)[end == "high"]
    if axis.log:
        return end == "low" and axis.kind == "integer" and value == 1
    return value == 0 if end == "low" else value == 1 and axis.kind == "continuous"


def _remedy(axis: Axis, side: Interval, end: Side) -> str:
    """Say what to do: a decade more on a log scale, else half the range, short of 0 and of 1."""
    low, high = ends(axis, side)
    way = "upwards" if end == "high" else "downwards"
    declared = axis.high if end == "high" else axis.low
    if side[0] > 0 if end == "low" else side[1] < 1:
        return f"narrow less, the study file allows values {way} to {number(declared)}"
    if axis.log:
        wider = 10 * high if end == "high" else low / 10
    elif end == "high":
        wider = high + (high - low) / 2
        if axis.kind == "continuous" and low >= 0 and high < 1:
            wider = min(wider, (high + 1) / 2)
    else:
        wider = low - (high - low) / 2
        if low > 0:
            wider = max(wider, low / 2)
    if axis.kind == "integer":
        wider = max(1, round(wider)) if axis.log or low > 0 else round(wider)
    return f"widen it {way} (to {number(wider)}, say)"


@dataclass(frozen=True, slots=True)
class StageWarning:
    """A border warning and the stage whose best trials raise it."""

    stage: str
    warning: BorderWarning

    def __str__(self) -> str:
        return f"{self.stage} · {self.warning.text}"


def border_warnings(state: StudyState) -> list[StageWarning]:
    """Return the warnings of every stage that drew points, the latest stage's first.

    A warning that a later stage has answered is left out: that stage searched beyond the border,
    or raises the same warning with better evidence.
    """
    space = state.settings.space
    stage_warnings: list[StageWarning] = []
    later: list[Box] = []
    for stage in reversed(state.stages):
        if stage.box is None:
            continue
        box = Box.from_json(stage.box)
        trials = [state.trials[number] for number in stage.trials]
        drawn = [trial.params for trial in finite(state, trials)]
        fruitless = [trial.params for trial in trials if _fruitless(trial)]
        raised = {(one.warning.axis, one.warning.side) for one in stage_warnings}
        for warning in warnings(space, box, drawn, fruitless=fruitless):
            answered = any(_beyond(space, warning, box, other) for other in later)
            if not answered and (warning.axis, warning.side) not in raised:
                stage_warnings.append(StageWarning(stage.name, warning))
        later.append(box)
    return stage_warnings


def _fruitless(trial: TrialRecord) -> bool:
    """Return whether a trial was tried and has no value."""
    return not isfinite(trial.best_value) and (bool(trial.history) or not trial.living)


def _beyond(space: Space, warning: BorderWarning, box: Box, later: Box) -> bool:
    """Return whether `later` reaches further than `box` at the border warned of."""
    index = [axis.name for axis in space.axes].index(warning.axis)
    if warning.side == "low":
        return later.sides[index][0][0] < box.sides[index][0][0]
    return later.sides[index][-1][1] > box.sides[index][-1][1]
