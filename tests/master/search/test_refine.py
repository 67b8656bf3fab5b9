from __future__ import annotations

from math import isnan, nextafter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattershot_common.space.space import Box, Space
from scattershot_common.trial import Value
from scattershot_master.search.refine import Narrowing, refine, select_continue

Interval = tuple[float, float]
UNIT = {"uniform": [2.0, 3.0]}  # x = 2 + u, and no widening


def refined(
    dimension: dict[str, Any], values: list[Any], fraction: float = 1.0, old: Interval = (0.0, 1.0)
) -> tuple[Interval, tuple[str, ...]]:
    space = Space.parse({"x": dimension})
    result = refine(space, Box(((old,),)), [{"x": value} for value in values], fraction)
    [[side]] = result.box.sides
    return side, result.notes


def test_continue_takes_the_best_and_all_where_there_are_fewer() -> None:
    assert select_continue([7, 3, 9, 1], 2) == [7, 3]
    assert select_continue([7], 5) == [7]
    assert select_continue([], 5) == []


def test_a_side_runs_around_the_best_part_with_half_a_mean_gap_more() -> None:
    values = [2.5, 2.3, 2.4, 2.6, 2.0, 3.0, 2.1, 2.9]
    side, notes = refined(UNIT, values, 0.5)
    assert side == pytest.approx((0.25, 0.65))
    assert notes == ("x: [2, 3] → [2.25, 2.65]",)


@pytest.mark.parametrize(
    ("trials", "fraction", "taken"), [(25, 0.28, 7), (8, 0.25, 2), (9, 0.25, 3), (8, 0.01, 2)]
)
def test_the_best_part_is_rounded_up_and_two_at_least(
    trials: int, fraction: float, taken: int
) -> None:
    values = [2.3 + 0.02 * k for k in range(trials)]
    side, _ = refined(UNIT, values, fraction)
    assert side[1] == pytest.approx(max(0.3 + 0.02 * (taken - 0.5), 0.35 + 0.01 * (taken - 1)))


def test_a_side_keeps_a_tenth_of_its_width_however_close_the_best_lie() -> None:
    assert refined(UNIT, [2.5, 2.5, 2.5])[0] == pytest.approx((0.45, 0.55))
    assert refined(UNIT, [2.5, 2.5], old=(0.4, 0.6))[0] == pytest.approx((0.49, 0.51))
    assert refined(UNIT, [2.98, 2.98])[0] == pytest.approx((0.9, 1.0))
    assert refined(UNIT, [2.02, 2.02])[0] == pytest.approx((0.0, 0.1))


def test_a_side_is_widened_over_the_range_where_the_best_lies_at_its_border() -> None:
    side, notes = refined({"loguniform": [1e-4, 1.0]}, [0.9, 0.01, 0.02])
    assert side[1] == pytest.approx(1.25)
    assert notes[1] == "x widened over its upper border to 10 since the best lies there"


def test_a_side_is_widened_where_the_best_crowd_though_the_very_best_lies_inside() -> None:
    values = [0.05, 0.9, 0.8, 0.04, 0.85]
    side, notes = refined({"loguniform": [1e-6, 1.0]}, values)
    assert side[1] == pytest.approx(1 + 1 / 6)  # a decade: the reach
    assert notes[1] == (
        "x widened over its upper border to 10 since 3 of the 5 best lie in the top 2%"
    )
    assert refined({"loguniform": [1e-6, 1.0]}, [0.05, 0.02, 0.9, 0.04, 0.03])[0][1] <= 1


def test_a_side_is_widened_downwards_likewise() -> None:
    side, notes = refined({"loguniform": [1e-4, 1.0]}, [1.1e-4, 0.01, 0.02])
    assert side[0] == pytest.approx(-0.25)
    assert notes[1] == "x widened over its lower border to 1e-05 since the best lies there"


@pytest.mark.parametrize(
    ("widen", "high"), [(False, 1.0), ([2.0, 3.1], 1.1), (True, 1.25), ([2.0, 9.0], 1.25)]
)
def test_widening_ends_at_the_reach_of_the_axis(widen: Any, high: float) -> None:
    side, notes = refined({**UNIT, "widen": widen}, [2.99, 2.5, 2.6])
    assert side[1] == pytest.approx(high)
    assert any("widened" in note for note in notes) == (high > 1)


def test_a_narrowed_side_is_widened_again_inside_the_declared_range() -> None:
    dimension = {"loguniform": [1e-4, 1.0]}
    value = 1e-4**0.405  # u = 0.595, at the upper end of the box
    side, notes = refined(dimension, [value, 1e-4**0.5, 1e-4**0.48], old=(0.4, 0.6))
    assert side[1] == pytest.approx(0.65)
    assert "widened over its upper border" in notes[1]
    side, _ = refined(dimension, [1e-4**0.02, 1e-4**0.1, 1e-4**0.2], old=(0.5, 0.99))
    assert side[1] == 1.0  # no further in one stage, though the axis reaches further
    side, _ = refined(dimension, [1e-4**0.98, 1e-4**0.9, 1e-4**0.8], old=(0.01, 0.5))
    assert side[0] == 0.0


def test_a_side_that_was_widened_before_is_widened_further_as_far_as_its_reach() -> None:
    dimension = {"loguniform": [1e-4, 1.0], "widen": [1e-8, 1e4]}
    side, _ = refined(dimension, [9.0, 1.0, 0.5], old=(0.25, 1.25))
    assert side[1] == pytest.approx(1.5)
    side, _ = refined({**dimension, "widen": [1e-4, 10.0]}, [9.0, 1.0, 0.5], old=(0.25, 1.25))
    assert side[1] == pytest.approx(1.25)


def test_a_side_of_integers_ends_on_the_edges_of_its_values() -> None:
    dimension = {"integer": [1, 10]}
    assert refined(dimension, [4, 5, 6])[0] == pytest.approx((0.3, 0.6))
    assert refined(dimension, [3, 5, 7])[0] == pytest.approx((0.1, 0.8))
    assert refined(dimension, [5, 5, 5])[0] == pytest.approx((0.4, 0.5))
    assert refined(dimension, [5, 5, 5])[1] == ("x: [1, 10] → [5, 5]",)


def test_integers_are_widened_by_whole_values() -> None:
    dimension = {"integer": [1, 10], "widen": True}
    side, notes = refined(dimension, [10, 8, 9])
    assert side == pytest.approx((0.7, 1.3))
    assert notes == (
        "x: [1, 10] → [8, 13]",
        "x widened over its upper border to 13 since the best lies there",
    )
    assert refined(dimension, [5, 5], old=(0.4, 0.5))[0] == pytest.approx((0.3, 0.6))


def test_a_choice_keeps_the_values_that_occur_among_the_best() -> None:
    space = Space.parse({"optimizer": {"choice": ["sgd", "adam", "adamw"]}})
    ranked: list[dict[str, Value]] = [{"optimizer": o} for o in ("adamw", "sgd", "adam", "adam")]
    result = refine(space, space.whole(), ranked, 0.5)
    assert [space.at(result.box.at([u]))["optimizer"] for u in (0.0, 0.49, 0.51, 0.99)] == [
        "sgd",
        "sgd",
        "adamw",
        "adamw",
    ]
    assert result.notes == ("optimizer: kept sgd, adamw of sgd, adam, adamw",)


def test_a_parameter_that_fewer_than_two_of_the_best_have_keeps_its_side() -> None:
    space = Space.parse(
        {
            "optimizer": {"choice": ["sgd", "adamw"]},
            "momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": "sgd"}},
            "nested": {"choice": [1, 2], "when": {"optimizer": "sgd"}},
        }
    )
    adamw: dict[str, Value] = {"optimizer": "adamw"}
    sgd: dict[str, Value] = {"optimizer": "sgd", "momentum": 0.6, "nested": 1}
    side = ((0.2, 0.8),)
    box = Box((*space.whole().sides[:1], side, *space.whole().sides[2:]))
    result = refine(space, box, [adamw, adamw, adamw, sgd], 0.75)
    assert result.box.sides[1:] == box.sides[1:]
    result = refine(space, box, [adamw, sgd, adamw, adamw], 0.75)
    assert result.box.sides[1] == side


def test_no_result_leaves_the_box() -> None:
    space = Space.parse({"x": UNIT})
    assert refine(space, space.whole(), [], 0.25) == Narrowing(space.whole(), ())


def test_a_space_without_axes_stays_one() -> None:
    space = Space.parse({"lr": 0.1})
    assert refine(space, space.whole(), [{"lr": 0.1}] * 3, 0.25) == Narrowing(Box(()), ())


SPACE = Space.parse(
    {
        "lr": {"loguniform": [1e-6, 10]},
        "wd": {"loguniform": [1e-6, 0.1], "widen": False},
        "momentum": {"uniform": [0.5, 0.99], "widen": True, "when": {"optimizer": "sgd"}},
        "warmup": {"uniform": [0.0, 1.0], "step": 0.125, "widen": True},
        "layers": {"integer": [1, 7], "widen": [1, 9]},
        "hidden": {"integer": [4, 300], "log": True, "widen": True},
        "optimizer": {"choice": ["sgd", "adam", "adamw"]},
    }
)
unit_points = st.lists(st.floats(0, 1, exclude_max=True), min_size=7, max_size=7)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(unit_points, min_size=1, max_size=12), min_size=1, max_size=4))
def test_the_box_holds_the_best_point_and_stays_in_reach_through_any_stages(
    stages: list[list[list[float]]],
) -> None:
    box = SPACE.whole()
    for stage in stages:
        ranked = [SPACE.at(box.at(u)) for u in stage]
        result = refine(SPACE, box, ranked, 0.4)
        assert result == refine(SPACE, box, ranked, 0.4)
        box = result.box
        best = SPACE.locate(ranked[0])
        for axis, side, u in zip(SPACE.axes, box.sides, best, strict=True):
            assert isnan(u) or any(low <= u <= high for low, high in side)
            assert axis.reach[0] <= side[0][0] < side[-1][1] <= axis.reach[1]
            if axis.cells:  # whole values, each with its fair share
                assert all(axis.cell(axis.index(nextafter(low, 9)))[0] == low for low, _ in side)


@settings(max_examples=50, deadline=None)
@given(st.lists(unit_points, min_size=2, max_size=12))
def test_the_box_holds_every_one_of_the_best(stage: list[list[float]]) -> None:
    ranked = [SPACE.at(u) for u in stage]
    box = refine(SPACE, SPACE.whole(), ranked, 1.0).box
    for params in ranked:
        for side, u in zip(box.sides, SPACE.locate(params), strict=True):
            assert isnan(u) or any(low <= u <= high for low, high in side)
