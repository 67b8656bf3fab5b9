"""Owns the rule on learning rates beyond which no trial learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from scattershot_common.space.space import Axis
from scattershot_master.diagnosis.study.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import Case, Finding
from scattershot_master.state.tail_probability import hypergeometric

#: So many trials in a row, from the end of the range, are no accident.
_LEAST = 3
#: A lucky trial among many changes nothing; it weighs as much as so many others.
_SHARE, _WEIGHT = 0.9, 4
#: Where there are several rates: how often chance may gather as many at the end of one.
_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class _Side:
    """What goes wrong at an end of the range, and how that is said."""

    bad: Callable[[Case, set[str]], bool]
    high: bool
    verb: str
    #: What one trial that is well does, and what several do.
    well: tuple[str, str]
    where: str
    bound: str
    way: str
    beyond: str


@dataclass(frozen=True, slots=True)
class _Rate:
    """A learning rate, how many trials have it, and how many of these are bad."""

    rate: float
    bad: int
    of: int


def _diverged(case: Case, rules: set[str]) -> bool:
    return "diverged" in rules


def _slow(case: Case, rules: set[str]) -> bool:
    small = case.largest_ratio is not None and case.largest_ratio < 1e-3
    return "slow" in rules or ("update_ratio" in rules and small)


_FAST = ("does not", "do not"), "from {} {} on", "upper", "down", "below"
_LOW = ("is not", "are not"), "up to {} {}", "lower", "up", "above"
_SIDES = (
    _Side(_diverged, True, "diverge", *_FAST),
    _Side(_slow, False, "are too slow", *_LOW),
)


def rates(study: StudyCase) -> list[Finding]:
    """Find the rate above which trials diverge, and the one below which they are too slow.

    Rates are the hyperparameters `lr` and those whose names end with `_lr`.
    """
    axes = [axis for axis in study.state.settings.space.axes if _is_rate(axis)]
    found = []
    for axis in axes:
        for side in _SIDES:
            seen = _seen(study, axis.name, side)
            count = _tail(seen)
            # if all are bad, or chance may have gathered them here, another rate may be to blame
            alone = len(axes) == 1 or (count == len(seen) and axis is axes[0])
            if count and (alone or _accident(seen, count) <= _CHANCE):
                found.append(_finding(axis, side, seen, count))
    return found


def _is_rate(axis: Axis) -> bool:
    numbers = all(isinstance(one, float | int) for one in axis.choices)
    return (axis.name == "lr" or axis.name.endswith("_lr")) and axis.kind != "integer" and numbers


def _seen(study: StudyCase, name: str, side: _Side) -> list[_Rate]:
    """Return the rates that were tried, from the bad end on."""
    tried = sorted(
        (
            (
                float(case.params[name]),
                side.bad(case, {one.rule for one in study.findings.get(trial, ())}),
            )
            for trial, case in study.cases.items()
            if name in case.params and case.history
        ),
        reverse=side.high,
    )
    groups = ((rate, [bad for _, bad in same]) for rate, same in groupby(tried, lambda one: one[0]))
    return [_Rate(rate, sum(bad), len(bad)) for rate, bad in groups]


def _tail(seen: Sequence[_Rate]) -> int:
    """Return how many of the rates are bad; at the last of these every trial is."""
    best = count = bad = trials = 0
    for index, one in enumerate(seen, 1):
        bad, trials = bad + one.bad, trials + one.of
        score = bad - _WEIGHT * (trials - bad)
        enough = trials >= _LEAST and bad >= _SHARE * trials
        if one.bad == one.of and enough and score >= best:
            best, count = score, index
    return count


def _accident(seen: Sequence[_Rate], count: int) -> float:
    """Return how likely so many bad trials at this end are, were the rate without effect."""
    trials, bad = sum(one.of for one in seen), sum(one.bad for one in seen)
    drawn, least = sum(one.of for one in seen[:count]), sum(one.bad for one in seen[:count])
    return hypergeometric(trials, bad, drawn, least)


def _finding(axis: Axis, side: _Side, seen: Sequence[_Rate], count: int) -> Finding:
    """Return what is so of the first `count` rates, and what to do about it."""
    tail, rest = seen[:count], seen[count:]
    bad, trials = sum(one.bad for one in tail), sum(one.of for one in tail)
    many = f"all {trials} trials" if bad == trials else f"{bad} of {trials} trials"
    edge, other = _apart(tail[-1].rate, rest[0].rate if rest else tail[0].rate)
    where = side.where.format(axis.name, edge)
    if rest:
        evidence = f"{many} {where} {side.verb}; {_well(side, rest[0], other)}"
    else:
        ends = (edge, other) if side.high else (other, edge)
        evidence = f"{many} {side.verb}, at {axis.name} {' to '.join(dict.fromkeys(ends))}"
    if axis.kind != "choice":
        remedy = f"move the {side.bound} bound of {axis.name} {side.way}, {side.beyond} {edge}"
    elif rest:
        remedy = f"drop the values {where}"
    else:
        remedy = f"choose values of {axis.name} {side.beyond} {edge}"
    return Finding("rates", evidence, remedy, "Hyperparameter optimization")


def _well(side: _Side, rate: _Rate, shown: str) -> str:
    """Return how the trials of the next rate do."""
    well = rate.of - rate.bad
    verb = side.well[well > 1]
    if rate.of == 1:
        return f"the next one, at {shown}, {verb}"
    return f"at {shown}, {well} of {rate.of} {verb}"


def _apart(one: float, other: float) -> tuple[str, str]:
    """Return two rates with three digits, or as many as tell them apart.

    >>> _apart(0.3, 0.01), _apart(0.30001, 0.29999)
    (('0.3', '0.01'), ('0.30001', '0.29999'))
    """
    digits = 3
    while one != other and f"{one:.{digits}g}" == f"{other:.{digits}g}":
        digits += 1
    return f"{one:.{digits}g}", f"{other:.{digits}g}"
