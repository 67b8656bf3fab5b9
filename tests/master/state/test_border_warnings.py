from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pytest

from scattershot_common.space.space import Axis, Box, Space
from scattershot_common.trial import Value
from scattershot_master.state.border_warnings import (
    BorderWarning,
    border_warnings,
    crowd,
    foremost,
    warnings,
)
from support.synthetic_study import Simulation
from support.tiers import fast_first


def warned(dimension: dict[str, Any], values: list[Any], box: Box | None = None) -> list[str]:
    space = Space.parse({"x": dimension})
    ranked = [{"x": value} for value in values]
    return [warning.text for warning in warnings(space, box or space.whole(), ranked)]


def test_a_warning_carries_its_evidence() -> None:
    space = Space.parse({"lr": {"loguniform": [1e-6, 10]}, "wd": {"loguniform": [1e-6, 1e-1]}})
    ranked = [
        {"lr": 6.0, "wd": 1e-3},
        {"lr": 1e-3, "wd": 1e-5},
        {"lr": 9.0, "wd": 5e-2},
        {"lr": 5.5, "wd": 3e-4},
        {"lr": 1e-2, "wd": 2e-6},
    ]
    [warning] = warnings(space, space.whole(), ranked)
    assert warning.share == pytest.approx(np.log(10 / 5.5) / np.log(1e7))
    assert warning == BorderWarning(
        axis="lr",
        side="high",
        share=warning.share,
        count=3,
        of=5,
        text="lr: 3 of the 5 best lie in the top 4% of the range [1e-06, 10]: "
        "widen it upwards (to 100, say)",
    )


def test_only_the_best_are_looked_at() -> None:
    inside, border = [1e-3, 2e-3, 1e-2, 5e-3, 3e-3], [10.0] * 20
    assert warned({"loguniform": [1e-6, 10]}, inside + border) == []
    assert len(warned({"loguniform": [1e-6, 10]}, border + inside)) == 1


@pytest.mark.parametrize(
    ("dimension", "values", "remedy"),
    [
        ({"loguniform": [1e-4, 1.0]}, [1.1e-4] * 4, "downwards (to 1e-05, say)"),
        ({"uniform": [0.0, 0.6]}, [0.59] * 5, "upwards (to 0.8, say)"),
        ({"uniform": [0.5, 0.99]}, [0.98] * 5, "upwards (to 0.995, say)"),
        ({"uniform": [0.5, 0.99]}, [0.51] * 5, "downwards (to 0.255, say)"),
        ({"uniform": [-4.0, 4.0]}, [-3.9] * 5, "downwards (to -8, say)"),
        ({"uniform": [0.0, 20.0]}, [19.5] * 5, "upwards (to 30, say)"),
        ({"integer": [16, 1024], "log": True}, [1000, 990, 1024], "upwards (to 10240, say)"),
        ({"integer": [16, 1024]}, [16, 17, 20], "downwards (to 8, say)"),
        ({"integer": [1, 10]}, [10, 10, 10, 10, 3], "upwards (to 14, say)"),
    ],
)
def test_the_remedy_depends_on_the_axis(
    dimension: dict[str, Any], values: list[Any], remedy: str
) -> None:
    [text] = warned(dimension, values)
    assert text.endswith(f": widen it {remedy}")


def test_a_crowd_in_the_middle_of_the_range_is_no_crowd_at_its_border() -> None:
    assert warned({"uniform": [1.0, 2.0]}, [1.7, 1.71, 1.72, 1.73, 1.74]) == []
    [text] = warned({"uniform": [1.0, 2.0]}, [1.95, 1.75, 1.96, 1.74, 1.97])
    assert "3 of the 5 best lie in the top 5%" in text


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        ({"uniform": [0.0, 0.6]}, 0.001),  # no dropout below 0
        ({"uniform": [0.4, 1.0]}, 0.999),  # no share above 1
        ({"integer": [0, 8]}, 0),
        ({"integer": [1, 800], "log": True}, 1),
    ],
)
def test_a_natural_end_is_no_border(dimension: dict[str, Any], value: float) -> None:
    assert warned(dimension, [value] * 5) == []


def test_choices_few_values_and_few_trials_say_nothing() -> None:
    assert warned({"choice": [64, 128, 256, 512, 1024, 2048]}, [2048] * 5) == []
    assert warned({"integer": [2, 5]}, [5] * 5) == []
    assert warned({"integer": [2, 5], "log": True}, [5] * 5) == []
    assert len(warned({"integer": [2, 6]}, [6] * 5)) == 1
    assert warned({"loguniform": [1e-6, 10]}, [10.0] * 2) == []
    assert warned({"loguniform": [1e-6, 10]}, []) == []


def test_a_parameter_that_does_not_exist_in_a_trial_does_not_count() -> None:
    space = Space.parse(
        {
            "optimizer": {"choice": ["sgd", "adamw"]},
            "momentum": {"uniform": [0.5, 0.99], "when": {"optimizer": "sgd"}},
        }
    )
    adamw: dict[str, Value] = {"optimizer": "adamw"}
    sgd: list[dict[str, Value]] = [
        {"optimizer": "sgd", "momentum": m} for m in (0.985, 0.98, 0.989)
    ]
    [warning] = warnings(space, space.whole(), [adamw, *sgd])
    assert (warning.count, warning.of) == (3, 3)
    assert warnings(space, space.whole(), [adamw] * 5) == []


def test_the_border_is_that_of_the_box_that_was_searched() -> None:
    box = Box((((0.25, 0.5),),))  # 1e-4 to 1e-2 of 1e-6 to 100
    [text] = warned({"loguniform": [1e-6, 1e2]}, [0.0098, 0.0097, 0.0096, 0.0099, 0.0002], box)
    assert text == (
        "x: 4 of the 5 best lie in the top 1% of the range [0.0001, 0.01]: "
        "narrow less, the study file allows values upwards to 100"
    )


def test_a_best_point_beyond_the_box_lies_at_its_border() -> None:
    box = Box((((0.25, 0.5),),))
    assert len(warned({"loguniform": [1e-6, 1e2]}, [1.0, 3.0, 50.0], box)) == 1


LR = Axis("lr", "continuous", 1e-6, 10.0, log=True)
LAYERS = Axis("layers", "integer", 2, 8)
WIDTH = Axis("width", "integer", 4, 400, log=True)


@pytest.mark.parametrize("axis", [LR, LAYERS, WIDTH], ids=lambda axis: axis.name)
@pytest.mark.parametrize("best", fast_first([3, 4, 5, 9]))
def test_an_axis_without_effect_raises_a_false_alarm_in_fewer_than_5_of_100_studies(
    axis: Axis, best: int
) -> None:
    draws = np.random.default_rng(100 + best).random((3000, best))
    located = [[axis.locate(axis.at(u)) for u in study] for study in draws]
    assert np.mean([crowd(axis, (0.0, 1.0), study) is not None for study in located]) < 0.05


def test_an_optimum_beyond_the_range_is_noticed() -> None:
    # the score falls with the distance from 1.1, noise as large as a tenth of the range's effect
    rng = np.random.default_rng(0)
    noticed = 0
    for _ in range(200):
        points = rng.random(64)
        ranked = points[np.argsort(abs(points - 1.1) + 0.05 * rng.standard_normal(64))]
        found = crowd(LR, (0.0, 1.0), ranked[:5].tolist())
        noticed += found is not None and found.side == "high"
    assert noticed > 180


def ranked_by(values: list[float], *, best_first: bool = True) -> list[dict[str, Value]]:
    return [{"x": value} for value in sorted(values, reverse=best_first)]


TRIED = [0.75 * n / 24 for n in range(24)]
RANGE = {"x": {"uniform": [-0.2, 0.9]}}


def test_the_best_at_the_end_of_what_was_tried_are_seen_however_few_were() -> None:
    space = Space.parse(RANGE)
    [warning] = warnings(space, space.whole(), ranked_by(TRIED))
    assert (warning.side, warning.count, warning.of) == ("high", 5, 5)
    assert warning.text == (
        "x: 5 of the 5 best are among the 5 highest of 24 values of the range [-0.2, 0.9]: "
        "widen it upwards (to 1.45, say)"
    )
    [warning] = warnings(space, space.whole(), ranked_by(TRIED, best_first=False))
    assert "5 of the 5 best are among the 5 lowest of 24 values" in warning.text


def test_the_best_between_others_or_short_of_what_failed_are_no_crowd_by_rank() -> None:
    space = Space.parse(RANGE)
    first, second, *rest = ranked_by(TRIED)
    assert warnings(space, space.whole(), [second, first, *rest]) == []
    assert warnings(space, space.whole(), [first, second, *rest], fruitless=[{"x": 0.89}]) == []
    # 5 of 8 are no feat
    assert warnings(space, space.whole(), [first, second, *rest][:8]) == []


@pytest.mark.parametrize("trials", [12, 24])
def test_by_rank_studies_with_an_effect_have_a_warning_and_few_without_one(trials: int) -> None:
    draws = np.random.default_rng(trials).random((3000, trials))

    def seen(studies: Any) -> float:
        chance = [foremost(LR, (0.0, 1.0), one[:5], one, 0.01) for one in studies.tolist()]
        return float(np.mean([found is not None for found in chance]))

    assert seen(draws) < 0.01 and seen(np.sort(draws)) > 0.9
    inside = np.argsort(abs(draws - 0.8), axis=1)
    assert seen(np.take_along_axis(draws, inside, axis=1)) < 0.2


def test_of_trials_that_failed_further_out_a_study_knows() -> None:
    state = Simulation(({"name": "a", "trials": 24, "epochs": 1},)).run()
    trials = state.trials.values()
    for trial in trials:
        trial.params["lr"] = trial.best_value = 1e-6 * 1.87 ** (trial.number + 1)
    assert [one.warning.axis for one in border_warnings(state)] == ["lr"]
    state.trials[23].best_value = nan
    assert border_warnings(state) == []
