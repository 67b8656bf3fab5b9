"""Owns the charts of a recipe, from what the checks measured and from the trials' histories."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scattershot_common.space.axis import Axis
from scattershot_master.figures.svg import Curve, line_chart
from scattershot_master.state.study_state import TrialRecord


def overfit_chart(numbers: Mapping[str, Any]) -> str:
    """Return the loss on the tiny sample over the steps."""
    losses = numbers["losses"]
    curve = Curve("loss", range(len(losses)), losses)
    return line_chart(
        f"{numbers['examples']} examples learned by heart", [curve], x_title="step", y_title="loss"
    )


def learning_chart(numbers: Mapping[str, Any]) -> str:
    """Return the loss of the first hundred iterations at each learning rate."""
    curves = [Curve(f"{rate:g}", range(len(ls)), ls) for rate, ls in numbers["losses"]]
    first = [ls[0] for _, ls in numbers["losses"] if ls and ls[0] is not None]
    return line_chart(
        "The first iterations at four learning rates",
        curves,
        x_title="iteration",
        y_title="training loss",
        top=2 * max(first, default=1.0),
    )


def scatter(axis: Axis, stages: Mapping[str, Sequence[TrialRecord]], metric: str) -> str:
    """Return the best value of every trial over one hyperparameter, the stages apart."""
    curves = []
    for name, trials in stages.items():
        drawn = [
            (float(trial.params[axis.name]), trial.best_value)
            for trial in trials
            if axis.name in trial.params and math.isfinite(trial.best_value)
        ]
        curves.append(Curve(name, [x for x, _ in drawn], [y for _, y in drawn], dots=True))
    return line_chart(
        f"{metric} over {axis.name}", curves, x_title=axis.name, y_title=metric, log_x=axis.log
    )


def curves_of(trials: Sequence[TrialRecord], metric: str) -> list[str]:
    """Return the curves of a few trials: the metric of all, the losses of the first."""
    charts = [
        line_chart(
            f"{metric} of the best trials",
            [
                Curve(
                    f"trial {trial.number}",
                    [line["epoch"] for line in trial.history],
                    [line.get(metric) for line in trial.history],
                )
                for trial in trials
            ],
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
                [
                    Curve(name, [line["epoch"] for line in best], [line.get(name) for line in best])
                    for name in losses
                ],
                x_title="epoch",
                y_title="loss",
            )
        )
    return charts
