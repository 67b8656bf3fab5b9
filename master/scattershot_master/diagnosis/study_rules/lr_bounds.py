"""The rule on learning rates beyond which no trial learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from scattershot_common.space.space import Axis
from scattershot_master.diagnosis.study_case import StudyCase
from scattershot_master.diagnosis.trial_case import Finding, TrialCase
from scattershot_master.state.tail_probability import hypergeometric

#: Bad trials in a row, from the end of the range, that are not by chance.
_MIN_TRIALS = 3
#: A good trial among many bad ones changes nothing; it weighs as much as this many of them.
_SHARE, _WEIGHT = 0.9, 4
#: With several rates: the largest probability that bad trials gather at the end of one by chance.
_MAX_CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class _Side:
    """What goes wrong at an end of the range, and the words for it."""

    bad: Callable[[TrialCase, set[str]], bool]
    high: bool
    verb: str
    #: The verb for one good trial, and for several.
    good: tuple[str, str]
    where: str
    bound: str
    direction: str
    beyond: str


@dataclass(frozen=True, slots=True)
class _Rate:
    """A learning rate, the number of its trials and how many of these are bad."""

    rate: float
    bad: int
    trials: int


def _diverged(case: TrialCase, rules: set[str]) -> bool:
    return "diverged" in rules


def _slow(case: TrialCase, rules: set[str]) -> bool:
    small = case.largest_update_ratio is not None and case.largest_update_ratio < 1e-3
    return "slow" in rules or ("update_ratio" in rules and small)


_UPPER = ("does not", "do not"), "from {} {} on", "upper", "down", "below"
_LOWER = ("is not", "are not"), "up to {} {}", "lower", "up", "above"
_SIDES = (
    _Side(_diverged, True, "diverge", *_UPPER),
    _Side(_slow, False, "are too slow", *_LOWER),
)


def lr_bounds(study: StudyCase) -> list[Finding]:
    """Find the rate above which trials diverge, and the one below which they are too slow.

    Rates are the hyperparameters `lr` and those whose names end with `_lr`.
    """
    axes = [axis for axis in study.state.settings.space.axes if _is_rate(axis)]
    findings = []
    for axis in axes:
        for side in _SIDES:
            tried = _tried_rates(study, axis.name, side)
            count = _bad_rates(tried)
            # if all are bad, or they may lie here by chance, another rate may be to blame
            alone = len(axes) == 1 or (count == len(tried) and axis is axes[0])
            if count and (alone or _chance(tried, count) <= _MAX_CHANCE):
                findings.append(_finding(axis, side, tried, count))
    return findings


def _is_rate(axis: Axis) -> bool:
    numbers = all(isinstance(choice, float | int) for choice in axis.choices)
    return (axis.name == "lr" or axis.name.endswith("_lr")) and axis.kind != "integer" and numbers


def _tried_rates(study: StudyCase, name: str, side: _Side) -> list[_Rate]:
    """Return the rates that were tried, from the bad end on."""
    trials = sorted(
        (
            (float(case.params[name]), side.bad(case, study.rules(trial)))
            for trial, case in study.cases.items()
            if name in case.params and case.history
        ),
        reverse=side.high,
    )
    groups = (
        (rate, [bad for _, bad in group]) for rate, group in groupby(trials, lambda trial: trial[0])
    )
    return [_Rate(rate, sum(bad), len(bad)) for rate, bad in groups]


def _bad_rates(tried: Sequence[_Rate]) -> int:
    """Return how many of the rates, from the bad end, are bad; at the last of them all trials are.

    A rate is worth including if the bad trials up to it outweigh the good ones.
    """
    best = count = bad = trials = 0
    for index, rate in enumerate(tried, 1):
        bad, trials = bad + rate.bad, trials + rate.trials
        score = bad - _WEIGHT * (trials - bad)
        enough = trials >= _MIN_TRIALS and bad >= _SHARE * trials
        if rate.bad == rate.trials and enough and score >= best:
            best, count = score, index
    return count


def _chance(tried: Sequence[_Rate], count: int) -> float:
    """Return the probability of as many bad trials at this end if the rate had no effect."""
    trials, bad = sum(rate.trials for rate in tried), sum(rate.bad for rate in tried)
    tail = tried[:count]
    drawn, least = sum(rate.trials for rate in tail), sum(rate.bad for rate in tail)
    return hypergeometric(trials, bad, drawn, least)


def _finding(axis: Axis, side: _Side, tried: Sequence[_Rate], count: int) -> Finding:
    """Return the finding about the first `count` rates, which are bad."""
    tail, rest = tried[:count], tried[count:]
    bad, trials = sum(rate.bad for rate in tail), sum(rate.trials for rate in tail)
    which = f"all {trials} trials" if bad == trials else f"{bad} of {trials} trials"
    edge, next_rate = _distinct(tail[-1].rate, rest[0].rate if rest else tail[0].rate)
    where = side.where.format(axis.name, edge)
    if rest:
        evidence = f"{which} {where} {side.verb}; {_good_trials(side, rest[0], next_rate)}"
    else:
        ends = (edge, next_rate) if side.high else (next_rate, edge)
        evidence = f"{which} {side.verb}, at {axis.name} {' to '.join(dict.fromkeys(ends))}"
    if axis.kind != "choice":
        bound = f"the {side.bound} bound of {axis.name}"
        remedy = f"move {bound} {side.direction}, {side.beyond} {edge}"
    elif rest:
        remedy = f"drop the values {where}"
    else:
        remedy = f"choose values of {axis.name} {side.beyond} {edge}"
    return Finding("rates", evidence, remedy, "Hyperparameter optimization")


def _good_trials(side: _Side, rate: _Rate, shown: str) -> str:
    """Return how the trials of the next rate do; `shown` is its text."""
    good = rate.trials - rate.bad
    verb = side.good[good > 1]
    if rate.trials == 1:
        return f"the next one, at {shown}, {verb}"
    return f"at {shown}, {good} of {rate.trials} {verb}"


def _distinct(a: float, b: float) -> tuple[str, str]:
    """Return two rates with three digits, or as many as tell them apart.

    >>> _distinct(0.3, 0.01), _distinct(0.30001, 0.29999)
    (('0.3', '0.01'), ('0.30001', '0.29999'))
    """
    digits = 3
    while a != b and f"{a:.{digits}g}" == f"{b:.{digits}g}":
        digits += 1
    return f"{a:.{digits}g}", f"{b:.{digits}g}"
