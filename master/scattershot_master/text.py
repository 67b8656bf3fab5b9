"""How single things are written for people: metrics, hyperparameters, durations, curves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from scattershot_common.trial import Value

#: Shown in place of a missing value.
NOTHING = "-"
_BARS = "▁▂▃▄▅▆▇█"


def metric(value: float) -> str:
    """Return a metric's value with four decimals, or four digits where those would hide it.

    >>> metric(0.96304), metric(0.00001234), metric(123456.0), metric(float("nan"))
    ('0.9630', '1.234e-05', '1.235e+05', 'nan')
    """
    if math.isfinite(value) and value and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.3e}"
    return f"{value:.4f}"


def number(value: float) -> str:
    """Return a number with three digits, for a sentence.

    >>> number(0.012345), number(3e-07)
    ('0.0123', '3e-07')
    """
    return f"{value:.3g}"


def percent(value: float) -> str:
    """Return a share as a percentage, for a sentence.

    >>> percent(0.314)
    '31%'
    """
    return f"{100 * value:.0f}%"


def params_format(values: Sequence[Value], log: bool) -> Callable[[Value], str]:
    """Return a function that writes the values of one hyperparameter as a column of a table.

    Floats of a `log` range, and others that are tiny or huge, get an exponent and two digits; the
    rest get as many decimals as the largest of them needs for three digits.

    >>> [params_format([3.21e-4, 2.0], log=True)(lr) for lr in (3.21e-4, 2.0)]
    ['3.2e-04', '2.0e+00']
    >>> [params_format([0.5, 0.071234], log=False)(dropout) for dropout in (0.5, 0.071234)]
    ['0.500', '0.071']
    >>> [params_format([32, True, "sgd"], log=False)(value) for value in (32, True, "sgd")]
    ['32', 'true', 'sgd']
    """
    sizes = [abs(value) for value in values if isinstance(value, float) and value]
    scientific = log or any(not 1e-3 <= size < 1e5 for size in sizes)
    decimals = min(max(2 - math.floor(math.log10(max(sizes, default=0.1))), 0), 4)

    def write(value: Value) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:.1e}" if scientific else f"{value:.{decimals}f}"
        return one_line(str(value))

    return write


def duration(seconds: float) -> str:
    """Return a time span in its two largest units.

    >>> duration(0.4), duration(72), duration(3 * 3600 + 240), duration(200_000)
    ('0 s', '1 min 12 s', '3 h 04 min', '2 d 7 h')
    """
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def rough(seconds: float) -> str:
    """Return an estimated time span, rounded to the precision that an estimate has.

    >>> rough(12.3), rough(47), rough(200), rough(5000), rough(90_000)
    ('12 s', '45 s', '3 min', '1 h 25 min', '1 d 1 h')
    """
    if seconds < 30:
        return duration(max(seconds, 1))
    if seconds < 57.5:
        return f"{round(seconds / 5) * 5} s"
    if seconds < 3570:
        return f"{max(round(seconds / 60), 1)} min"
    return duration(round(seconds / 300) * 300)


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Return a curve as a line of bars, at most `width` of them; "·" where it is not finite.

    >>> sparkline([0.1, 0.5, 0.9, float("nan"), 0.9])
    '▁▅█·█'
    """
    if len(values) > width:
        values = [values[round(i * (len(values) - 1) / (width - 1))] for i in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high - low or 1.0
    top = len(_BARS) - 1
    return "".join(
        _BARS[round((value - low) / span * top)] if math.isfinite(value) else "·"
        for value in values
    )


def clean(text: str) -> str:
    r"""Return `text` on one line and without control characters: it may be from an unsafe source.

    >>> clean("  boom:\n\x1b[31mred")
    '  boom: [31mred'
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)


def one_line(text: str) -> str:
    """Return `text` as `clean` does, without blanks at its ends."""
    return clean(text).strip()


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "trial"), plural(2, "trial")
    ('1 trial', '2 trials')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def trial_numbers(trials: Sequence[int], limit: int = 5) -> str:
    """Return trial numbers for a sentence, only the first `limit` of them.

    >>> trial_numbers([3]), trial_numbers([3, 5]), trial_numbers(list(range(9)))
    ('trial 3', 'trials 3, 5', 'trials 0, 1, 2, 3, 4, …')
    """
    return f"trial{'s' * (len(trials) != 1)} {first_few(trials, limit)}"


def first_few(items: Sequence[object], limit: int) -> str:
    """Return the first `limit` items for a sentence, with "…" if there are more.

    >>> first_few([3, 5], 2), first_few([3, 5, 7], 2)
    ('3, 5', '3, 5, …')
    """
    return ", ".join(map(str, items[:limit])) + (", …" if len(items) > limit else "")
