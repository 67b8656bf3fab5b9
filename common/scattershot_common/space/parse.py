"""Parser of the [space] table: the forms of a dimension, and every problem with a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite, log, log10

from scattershot_common.problems import (
    InvalidEntry,
    KeyPath,
    Problem,
    nearest,
    number_problem,
    show,
)
from scattershot_common.space.axis import Axis, grid, same, steps
from scattershot_common.trial import Value

#: The options of each kind of dimension.
OPTIONS: dict[str, tuple[str, ...]] = {
    "loguniform": ("widen", "when"),
    "uniform": ("step", "widen", "when"),
    "integer": ("log", "step", "widen", "when"),
    "choice": ("when",),
    "value": ("when",),
}
#: A unit coordinate is too coarse for more cells than this, or for integers beyond it.
MOST = 2**40
#: Leaves room for widening and rounding before a float overflows.
LARGEST = 1e300
NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)

Conditions = dict[str, tuple[Value, ...]]


@dataclass
class ParsedSpace:
    """The parts of a space and the problems with its table; with any, the parts are incomplete."""

    axes: list[Axis] = field(default_factory=list)
    fixed: dict[str, Value] = field(default_factory=dict)
    when: dict[str, Conditions] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Add a problem that is raised inside to `problems`, and continue after it."""
        try:
            yield
        except InvalidEntry as wrong:
            self.problems.append(wrong.problem)


def parse_space(table: Mapping[str, object]) -> ParsedSpace:
    """Parse the whole [space] table of a study file; problems are collected, not raised."""
    parsed = ParsedSpace()
    for name, entry in table.items():
        path: KeyPath = ("space", name)
        if not NAME.fullmatch(name):
            message = "a name is letters, digits and _ . - and starts with a letter or _"
            parsed.problems.append(Problem(path, message))
        with parsed.collecting():
            if isinstance(entry, dict):
                _read_dimension(name, entry, path, parsed)
            else:
                parsed.fixed[name] = _scalar(entry, path)
    _check_conditions(table, parsed)
    return parsed


def _read_dimension(
    name: str, entry: dict[str, object], path: KeyPath, parsed: ParsedSpace
) -> None:
    if "when" in entry:
        with parsed.collecting():
            parsed.when[name] = _conditions(entry["when"], (*path, "when"))
    kinds = [kind for kind in OPTIONS if kind in entry]
    if len(kinds) != 1:
        written = " and ".join(kinds or entry) or "nothing"
        near = "" if kinds else "".join(nearest(word, OPTIONS) for word in entry)
        raise InvalidEntry(
            path, f"needs exactly one of {', '.join(OPTIONS)} (found {written}){near}"
        )
    kind = kinds[0]
    parsed.problems += [
        Problem((*path, option), _misplaced(option, kind))
        for option in entry
        if option not in (kind, *OPTIONS[kind])
    ]
    if kind == "value":
        parsed.fixed[name] = _scalar(entry["value"], (*path, "value"))
    elif kind == "choice":
        parsed.axes.append(_choice(name, entry["choice"], (*path, "choice")))
    else:
        parsed.axes.append(_range(name, kind, entry, path))


def _misplaced(option: str, kind: str) -> str:
    if option == "log" and kind == "uniform":
        return 'has no meaning for uniform; write "loguniform" instead of "uniform"'
    kinds = [other for other, options in OPTIONS.items() if option in options]
    if kinds:
        return f"has no meaning for {kind}, only for {' and '.join(kinds)}"
    allowed = OPTIONS[kind]
    return f"unknown key (allowed beside {kind}: {', '.join(allowed)}){nearest(option, allowed)}"


def _scalar(value: object, path: KeyPath) -> Value:
    if isinstance(value, list):
        raise InvalidEntry(
            path,
            f"found the list {show(value)}; write {{ choice = [...] }} for one of its values, "
            "{ uniform = [low, high] } or { loguniform = [low, high] } for a range",
        )
    if not isinstance(value, bool | int | float | str):
        raise InvalidEntry(path, f"must be a number, text, true or false (found {show(value)})")
    if isinstance(value, float) and not isfinite(value):
        raise InvalidEntry(path, f"must be a finite number (found {value})")
    return value


def _choice(name: str, listed: object, path: KeyPath) -> Axis:
    if not isinstance(listed, list) or not listed:
        raise InvalidEntry(path, f"needs a list of at least one value (found {show(listed)})")
    choices = tuple(_choice_value(item, path) for item in listed)
    for index, value in enumerate(choices):
        if any(same(value, other) for other in choices[:index]):
            raise InvalidEntry(path, f"{show(value)} is listed twice (found {show(listed)})")
    return Axis(name, "choice", 0, len(choices) - 1, choices=choices)


def _choice_value(value: object, path: KeyPath) -> Value:
    if isinstance(value, list | dict):
        items = value if isinstance(value, list) else []
        plain = items and all(isinstance(item, int | float | str) for item in items)
        instead = show("-".join(map(str, items))) if plain else 'a name, as "wide"'
        raise InvalidEntry(
            path,
            f"a choice is a number, text, true or false (found {show(value)}); "
            f"write {instead} and take it apart in the task",
        )
    return _scalar(value, path)


def _range(name: str, kind: str, entry: dict[str, object], path: KeyPath) -> Axis:
    here = (*path, kind)
    whole = kind == "integer"
    low, high = _pair(entry[kind], here, whole)
    if low >= high:
        raise InvalidEntry(
            here,
            "the range is empty: the lower end must be below the upper "
            f"(found {show(entry[kind])}); for a fixed value write {{ value = ... }}",
        )
    logarithmic = kind == "loguniform" or (whole and entry.get("log", False))
    if not isinstance(logarithmic, bool):
        raise InvalidEntry((*path, "log"), f"must be true or false (found {show(logarithmic)})")
    step: float | None = 1 if whole else None
    if "step" in entry:
        step = _number(entry["step"], (*path, "step"), whole)
        if not (step > 0 and 1 <= steps(low, high, step) < MOST):
            raise InvalidEntry(
                (*path, "step"),
                "must be above 0, at most the width of the range, and leave less than 2^40 values "
                f"(found {show(entry['step'])} for {show(entry[kind])})",
            )
        high = grid(low, step, steps(low, high, step))
    if logarithmic:
        instead = "integer without log" if whole else "uniform"
        _check_positive(low, step, here, f"; use {instead} for a range that contains 0")
    if not isfinite(high - low) or (logarithmic and log(low) == log(high)):
        raise InvalidEntry(
            here, f"the ends lie too close or too far apart (found {show(entry[kind])})"
        )
    axis = Axis(name, "integer" if whole else "continuous", low, high, logarithmic, step)
    widen = entry.get("widen", kind == "loguniform")
    if widen is False:
        return axis
    axis = replace(axis, limits=_limits(axis, widen, (*path, "widen")))
    if not all(map(isfinite, axis.reach)):
        raise InvalidEntry((*path, "widen"), f"lies too far out (found {show(widen)})")
    return axis


def _limits(axis: Axis, widen: object, path: KeyPath) -> tuple[float, float]:
    """Return the values up to which a range may be widened, on its grid where it has one."""
    if widen is True:
        low, high = _natural_limits(axis)
    else:
        low, high = _pair(widen, path, axis.kind == "integer")
        if not low <= axis.low < axis.high <= high:
            raise InvalidEntry(
                path,
                "must be true, false, or the ends up to which the range may be widened, "
                f"around [{axis.low:g}, {axis.high:g}] (found {show(widen)})",
            )
        if axis.log:
            _check_positive(low, axis.step, path)
    if axis.step:
        if axis.log:  # half a step below the lowest value is above 0 still
            low = max(low, (axis.step + 1) / 2)
        low = grid(axis.low, axis.step, -steps(low, axis.low, axis.step))
        high = grid(axis.low, axis.step, steps(axis.low, high, axis.step))  # as values are
    return low, high


def _natural_limits(axis: Axis) -> tuple[float, float]:
    """Half the range's width on each side, on a log scale a decade at most; never another sign."""
    low, high = axis.low, axis.high
    if axis.log:
        factor = 10 ** min(1.0, (log10(high) - log10(low)) / 2)
        return low / factor or low, high * factor
    half = (high - low) / 2
    return (
        max(low - half, low / 2) if low >= 0 else low - half,
        min(high + half, high / 2) if high <= 0 else high + half,
    )


def _check_positive(low: float, step: float | None, path: KeyPath, advice: str = "") -> None:
    """Raise InvalidEntry unless a log scale (with half a step, for integers) begins above 0."""
    if low <= (step or 0) / 2:
        above = f"half the step, {step / 2:g}" if step and step > 1 else "0"
        raise InvalidEntry(path, f"the lower end must be above {above} (found {low:g}){advice}")


def _pair(value: object, path: KeyPath, whole: bool) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise InvalidEntry(path, f"needs two numbers, [low, high] (found {show(value)})")
    low, high = (_number(end, path, whole) for end in value)
    return low, high


def _number(value: object, path: KeyPath, whole: bool) -> float:
    reason = number_problem(value, whole)
    if reason:
        raise InvalidEntry(path, reason)
    assert isinstance(value, int | float)
    most = MOST if whole else LARGEST
    if abs(value) > most:
        raise InvalidEntry(path, f"must lie between {-most:g} and {most:g} (found {value})")
    return int(value) if whole else float(value)


def _conditions(entry: object, path: KeyPath) -> Conditions:
    if not isinstance(entry, dict) or not entry:
        raise InvalidEntry(
            path, f'needs a table like {{ optimizer = "sgd" }} (found {show(entry)})'
        )
    conditions = {}
    for parent, allowed in entry.items():
        listed = allowed if isinstance(allowed, list) else [allowed]
        if not listed:
            raise InvalidEntry((*path, parent), "needs at least one value (found [])")
        conditions[parent] = tuple(_scalar(value, (*path, parent)) for value in listed)
    return conditions


def _check_conditions(table: Mapping[str, object], parsed: ParsedSpace) -> None:
    """Find parents that are unknown, continuous, never have the value, or depend on their child."""
    axes = {axis.name: axis for axis in parsed.axes}
    for name, conditions in parsed.when.items():
        for parent, allowed in conditions.items():
            path = ("space", name, "when", parent)
            with parsed.collecting():
                if parent not in table:
                    near = nearest(parent, [other for other in table if other != name])
                    raise InvalidEntry(path, f"the space has no parameter {show(parent)}{near}")
                if parent in axes:
                    _check_values(axes[parent], allowed, path)
                elif parent in parsed.fixed:
                    only = parsed.fixed[parent]
                    for value in allowed:
                        if not same(value, only):
                            raise InvalidEntry(
                                path, f"{parent} is always {show(only)}, never {show(value)}"
                            )
    in_cycle: set[str] = set()
    for name in parsed.when:
        cycle = _cycle(name, parsed.when)
        if cycle and not in_cycle & set(cycle):
            in_cycle |= set(cycle)
            message = f"depends on itself: {' -> '.join(cycle)}"
            parsed.problems.append(Problem(("space", name, "when"), message))


def _check_values(parent: Axis, allowed: tuple[Value, ...], path: KeyPath) -> None:
    if not parent.cells:
        raise InvalidEntry(
            path,
            f"{parent.name} is continuous and never has exactly one value; "
            "a condition needs a choice, an integer or a range with a step",
        )
    for value in allowed:
        if not parent.can_be(value):
            values = f"from {parent.low} to {parent.high} in steps of {parent.step}"
            if parent.choices:
                values = f"one of {', '.join(map(show, parent.choices))}"
            raise InvalidEntry(path, f"{parent.name} is never {show(value)}; it is {values}")


def _cycle(start: str, when: Mapping[str, Conditions]) -> list[str]:
    """Return the shortest chain of conditions from `start` back to itself, or nothing."""
    chains = [[start]]
    seen = set()
    for chain in chains:
        for parent in when.get(chain[-1], ()):
            if parent == start:
                return [*chain, start]
            if parent not in seen:
                seen.add(parent)
                chains.append([*chain, parent])
    return []
