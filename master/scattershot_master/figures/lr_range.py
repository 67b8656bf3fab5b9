"""Owns the chart of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scattershot_master.figures.svg import Curve, line_chart


def rates_chart(numbers: Mapping[str, Any], title: str = "Learning-rate range test") -> str:
    """Return the chart of the check `rates` as SVG: the loss over the learning rate."""
    rates, smooth = numbers["rates"], numbers["smoothed"]
    marks = [
        (numbers[key], f"{word} {numbers[key]:.2g}")
        for key, word in (("steepest", "steepest"), ("largest_safe", "largest safe"))
        if key in numbers
    ]
    suggested = numbers.get("suggested")
    return line_chart(
        title,
        [
            Curve("loss of each batch", rates, numbers["losses"], faint=True),
            Curve("smoothed", rates, smooth),
            *([Curve("suggested range", [], [])] if suggested else []),
        ],
        x_title="learning rate",
        y_title="training loss",
        log_x=True,
        marks=marks,
        band=(suggested[0], suggested[1]) if suggested else None,
        # the end, where it blows up, would flatten all the rest
        top=smooth[0] + 0.5 * abs(smooth[0] - min(smooth)),
    )
