"""Line charts as SVG: small, without scripts, for a file of their own or inside a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 52
#: Distinct for people with colour blindness, too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Series:
    """Points of one curve; values that are not finite are gaps. `faint` suits noisy values."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    faint: bool = False
    dots: bool = False


@dataclass(frozen=True)
class _Axis:
    """The map from values to pixels along one side."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low or 1.0)
        return round(self.start + min(max(share, -0.02), 1.02) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Return a few round values inside the axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            every = max(1, math.ceil((last - first) / 8))
            return [10.0**power for power in range(first, last + 1, every)]
        span = self.high - self.low or 1.0
        step = 10.0 ** math.floor(math.log10(span / 4))
        step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    log_x: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    band: tuple[float, float] | None = None,
    top: float | None = None,
) -> str:
    """Return a chart of `series` as an SVG element.

    `marks` are values of x with a label at each, `band` is a range of x to be shaded, and `top`
    is where y is cut off. Values of x must be above 0 with `log_x`.
    """
    x = _axis([v for curve in series for v in curve.x], _LEFT, _WIDTH - _RIGHT, log=log_x)
    ys = [v for curve in series for v in curve.y if v is not None and math.isfinite(v)]
    y = _axis([min(v, top) if top is not None else v for v in ys], _HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="18" font-size="14" font-weight="600">{escape(title)}</text>',
    ]
    if band:
        low, high = x.at(max(band[0], x.low)), x.at(min(band[1], x.high))
        parts.append(
            f'<rect x="{low}" y="{_TOP}" width="{max(high - low, 0):.1f}" '
            f'height="{_HEIGHT - _BOTTOM - _TOP}" fill="#009e73" opacity="0.12"/>'
        )
    parts += _frame(x, y, x_title, y_title)
    for index, (value, label) in enumerate(marks):
        px = x.at(value)
        anchor = "end" if px > _WIDTH * 0.75 else "start"
        shift = -4 if anchor == "end" else 4
        parts.append(
            f'<line x1="{px}" x2="{px}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#555" '
            f'stroke-dasharray="4 3"/><text x="{px + shift}" y="{_TOP + 14 + 15 * index}" '
            f'text-anchor="{anchor}">{escape(label)}</text>'
        )
    for index, curve in enumerate(series):
        parts += _curve(curve, x, y, COLOURS[index % len(COLOURS)])
    parts += _legend(series)
    return "\n".join([*parts, "</svg>"])


def _axis(values: Sequence[float], start: float, end: float, log: bool = False) -> _Axis:
    low, high = min(values, default=1.0), max(values, default=2.0)
    if not log:
        margin = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
    elif low == high:
        low, high = low / 2, high * 2
    return _Axis(low, high, start, end, log)


def _frame(x: _Axis, y: _Axis, x_title: str, y_title: str) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for tick in y.ticks():
        py = y.at(tick)
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{py}" y2="{py}" stroke="#e4e4e4"/>'
        yield f'<text x="{_LEFT - 8}" y="{py + 4}" text-anchor="end">{_number(tick)}</text>'
    for tick in x.ticks():
        px = x.at(tick)
        yield f'<line x1="{px}" x2="{px}" y1="{bottom}" y2="{bottom + 5}" stroke="#888"/>'
        yield f'<text x="{px}" y="{bottom + 19}" text-anchor="middle">{_number(tick)}</text>'
    yield f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}" stroke="#888"/>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(x_title)}</text>'
    half = (_TOP + bottom) / 2
    yield (
        f'<text x="14" y="{half}" text-anchor="middle" '
        f'transform="rotate(-90 14 {half})">{escape(y_title)}</text>'
    )


def _curve(curve: Series, x: _Axis, y: _Axis, colour: str) -> Iterator[str]:
    runs: list[list[str]] = [[]]
    for at, value in zip(curve.x, curve.y, strict=True):
        if value is None or not math.isfinite(value) or value > y.high:
            runs.append([])
        else:
            runs[-1].append(f"{x.at(at)},{y.at(value)}")
    width, opacity = (1, 0.4) if curve.faint else (2, 1)
    for run in filter(None, runs):
        if curve.dots or (len(run) == 1 and not curve.faint):
            for point in run:
                px, py = point.split(",")
                yield f'<circle cx="{px}" cy="{py}" r="3.5" fill="{colour}" opacity="0.75"/>'
        else:
            yield (
                f'<polyline points="{" ".join(run)}" fill="none" stroke="{colour}" '
                f'stroke-width="{width}" opacity="{opacity}" stroke-linejoin="round"/>'
            )


def _legend(series: Sequence[Series]) -> Iterator[str]:
    left = float(_LEFT)
    for index, curve in enumerate(series if len(series) > 1 else ()):
        colour = COLOURS[index % len(COLOURS)]
        yield f'<rect x="{left}" y="27" width="14" height="3" fill="{colour}"/>'
        yield f'<text x="{left + 19}" y="33">{escape(curve.name)}</text>'
        left += 34 + 6.6 * len(curve.name)


def _number(value: float) -> str:
    return f"{value:g}" if 1e-3 <= abs(value) < 1e5 or not value else f"{value:.0e}"
