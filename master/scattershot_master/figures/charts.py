"""Charts of checks and of a search: range test, overfitting, learning rates, trials, curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scattershot_common.space.axis import Axis
from scattershot_master.figures.svg import Series, line_chart
from scattershot_master.state.study_state import TrialRecord


def lr_range_chart(numbers: Mapping[str, Any], title: str = "Learning-rate range test") -> str:
    """Return the chart of the check `rates` as SVG: the loss over the learning rate."""
    rates, smooth = numbers["rates"], numbers["smoothed"]
    marks = [
        (numbers[key], f"{label} {numbers[key]:.2g}")
        for key, label in (("steepest", "steepest"), ("largest_safe", "largest safe"))
        if key in numbers
    ]
    suggested = numbers.get("suggested")
    return line_chart(
        title,
        [
            Series("loss of each batch", rates, numbers["losses"], faint=True),
            Series("smoothed", rates, smooth),
            *([Series("suggested range", [], [])] if suggested else []),
        ],
        x_title="learning rate",
        y_title="training loss",
        log_x=True,
        marks=marks,
        band=(suggested[0], suggested[1]) if suggested else None,
        # the diverging losses at the end would flatten the rest of the curve
        top=smooth[0] + 0.5 * abs(smooth[0] - min(smooth)),
    )


def overfit_chart(numbers: Mapping[str, Any]) -> str:
    """Return the chart of the check `overfit`: the loss on the tiny sample over the steps."""
    losses = numbers["losses"]
    title = f"{numbers['examples']} examples learned by heart"
    series = Series("loss", range(len(losses)), losses)
    return line_chart(title, [series], x_title="step", y_title="loss")


def learning_chart(numbers: Mapping[str, Any]) -> str:
    """Return the chart of the check `learning`: the first iterations at each learning rate."""
    series = [Series(f"{rate:g}", range(len(losses)), losses) for rate, losses in numbers["losses"]]
    first = [losses[0] for _, losses in numbers["losses"] if losses and losses[0] is not None]
    return line_chart(
        "The first iterations at four learning rates",
        series,
        x_title="iteration",
        y_title="training loss",
        top=2 * max(first, default=1.0),
    )


def value_chart(axis: Axis, stages: Mapping[str, Sequence[TrialRecord]], metric: str) -> str:
    """Return the best value of every trial over one hyperparameter, in a colour for each stage."""
    series = []
    for name, trials in stages.items():
        points = [
            (float(trial.params[axis.name]), trial.best_value)
            for trial in trials
            if axis.name in trial.params and math.isfinite(trial.best_value)
        ]
        series.append(Series(name, [x for x, _ in points], [y for _, y in points], dots=True))
    return line_chart(
        f"{metric} over {axis.name}", series, x_title=axis.name, y_title=metric, log_x=axis.log
    )


def learning_curves(trials: Sequence[TrialRecord], metric: str) -> list[str]:
    """Return charts of a few trials, best first: the metric of all, the losses of the first."""
    charts = [
        line_chart(
            f"{metric} of the best trials",
            [_by_epoch(f"trial {trial.number}", trial.history, metric) for trial in trials],
            x_title="epoch",
            y_title=metric,
        )
    ]
    best = trials[0].history
    losses = [name for name in ("train_loss", "val_loss") if any(name in line for line in best)]
    if losses:
        charts.append(
            line_chart(
                f"Losses of trial {trials[0].number}",
                [_by_epoch(name, best, name) for name in losses],
                x_title="epoch",
                y_title="loss",
            )
        )
    return charts


def _by_epoch(label: str, history: Sequence[Mapping[str, float]], metric: str) -> Series:
    epochs = [line["epoch"] for line in history]
    return Series(label, epochs, [line.get(metric) for line in history])
