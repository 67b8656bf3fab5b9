import json
from collections import Counter
from math import exp, inf, isnan, log, nan, nextafter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from scattershot_common.errors import StudyFileError
from scattershot_common.space.axis import Axis, same
from scattershot_common.space.space import Box, Space

LAST = nextafter(1.0, 0.0)

units = st.floats(0, 1)
halves = st.integers(-(10**6), 10**6)
options = st.fixed_dictionaries({}, optional={"widen": st.booleans()})


@st.composite
def uniforms(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.floats(-1e6, 1e6))
    high = low + draw(st.floats(1e-3, 1e6))
    entry = {"uniform": [low, high], **draw(options)}
    if draw(st.booleans()):
        entry["step"] = draw(st.floats((high - low) / 500, (high - low) * 0.99))
    return entry


@st.composite
def loguniforms(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.floats(-12, 6))
    return {"loguniform": [10**low, 10 ** (low + draw(st.floats(0.1, 8)))], **draw(options)}


@st.composite
def integers(draw: st.DrawFn) -> dict[str, Any]:
    logarithmic = draw(st.booleans())
    step = draw(st.integers(1, 8))
    low = draw(st.integers(step, 1000) if logarithmic else st.integers(-1000, 1000))
    high = low + step + draw(st.integers(0, 100_000))
    return {"integer": [low, high], "log": logarithmic, "step": step, **draw(options)}


scalars = st.one_of(
    st.integers(-3, 3), st.floats(-3, 3), st.booleans(), st.sampled_from(["sgd", "adamw", "1"])
)
choices = st.builds(
    lambda listed: {"choice": listed},
    st.lists(scalars, min_size=1, max_size=7, unique_by=lambda v: (isinstance(v, bool), v)),
)
dimensions = st.one_of(uniforms(), loguniforms(), integers(), choices)
discrete = st.one_of(integers(), choices, uniforms().filter(lambda entry: "step" in entry))


def axis(entry: dict[str, Any]) -> Axis:
    return Space.parse({"x": entry}).axes[0]


def many(entry: dict[str, Any], count: int = 20_000) -> list[Any]:
    """Values at the points of a fixed random sample."""
    dimension = axis(entry)
    return [dimension.at(u) for u in np.random.default_rng(0).random(count).tolist()]


def complaint(table: dict[str, Any]) -> str:
    with pytest.raises(StudyFileError) as caught:
        Space.parse(table)
    return str(caught.value)


# --- one dimension ---------------------------------------------------------------------------


@settings(deadline=None)
@given(dimensions, units)
def test_values_never_leave_the_declared_range(entry: dict[str, Any], u: float) -> None:
    value = axis(entry).at(u)
    if "choice" in entry:
        assert value in entry["choice"]
    else:
        low, high = next(iter(entry.values()))
        assert isinstance(value, float | int) and low <= value <= high
        assert type(value) is (int if "integer" in entry else float)


@settings(deadline=None)
@example({"uniform": [0.0, 60719.0], "widen": True, "step": 149.92125911451149}, 2.0)
@given(dimensions, st.floats(-100, 100))
def test_a_widened_coordinate_stops_at_the_reach(entry: dict[str, Any], u: float) -> None:
    dimension = axis(entry)
    value = dimension.at(u)
    low, high = dimension.reach
    assert low <= 0 and high >= 1
    if "choice" in entry:
        assert (low, high) == (0, 1) and value in entry["choice"]
        return
    least, most = dimension.limits or (dimension.low, dimension.high)
    assert isinstance(value, float | int) and least <= value <= most
    if not entry.get("widen", "loguniform" in entry):
        assert (low, high) == (0, 1) and dimension.limits is None
    assert (dimension.at(-inf), dimension.at(inf)) == (least, most)


@settings(deadline=None)
@given(st.one_of(loguniforms(), uniforms().filter(lambda entry: "step" not in entry)), units)
def test_locating_a_continuous_value_gives_its_coordinate_back(
    entry: dict[str, Any], u: float
) -> None:
    dimension = axis(entry)
    # a float has 2^-53 of the range's largest number: no coordinate can be finer than that
    assume(abs(dimension.high) / (dimension.high - dimension.low) < 1e5)
    assert dimension.locate(dimension.at(u)) == pytest.approx(u, abs=1e-9)


@settings(deadline=None)
@given(discrete, st.floats(-1, 2))
def test_locating_a_discrete_value_gives_a_coordinate_of_the_same_value(
    entry: dict[str, Any], u: float
) -> None:
    dimension = axis(entry)
    assert dimension.at(dimension.locate(dimension.at(u))) == dimension.at(u)


@settings(deadline=None)
@given(discrete, st.data())
def test_a_cell_holds_its_value_from_its_first_to_its_last_coordinate(
    entry: dict[str, Any], data: st.DataObject
) -> None:
    dimension = axis(entry)
    low, high = dimension.cell(data.draw(st.integers(0, dimension.cells - 1)))
    assert dimension.at(low) == dimension.at((low + high) / 2) == dimension.at(nextafter(high, low))
    assert low == 0 or not same(dimension.at(nextafter(low, 0)), dimension.at(low))


@settings(deadline=None)
@given(discrete)
def test_the_cells_divide_the_unit_interval_among_all_values(entry: dict[str, Any]) -> None:
    dimension = axis(entry)
    assert dimension.cell(0)[0] == 0 and dimension.cell(dimension.cells - 1)[1] == 1
    if dimension.kind != "choice":
        assert (dimension.at(0.0), dimension.at(1.0)) == (dimension.low, dimension.high)
        low, high = next(iter(entry.values()))
        rounding = 1e-15 * abs(high)
        assert (
            dimension.low == low
            and high - (dimension.step or 0) - rounding <= dimension.high <= high
        )


def test_both_ends_of_a_continuous_range_are_exact() -> None:
    for kind in ("uniform", "loguniform"):
        for low, high in [(1e-6, 10), (0.1, 0.7), (1e-4, 0.3), (3.3, 9.9)]:
            dimension = axis({kind: [low, high]})
            assert (dimension.at(0.0), dimension.at(1.0)) == (low, high)


def test_rounding_beside_the_ends_does_not_leave_the_range() -> None:
    assert exp(log(1e-5)) < 1e-5
    assert axis({"loguniform": [1e-5, 1]}).at(1e-17) == 1e-5
    assert exp(log(3)) > 3
    assert axis({"loguniform": [2.5, 3]}).at(LAST) == 3


def test_a_grid_has_the_decimals_that_were_written() -> None:
    dimension = axis({"uniform": [0, 0.75], "step": 0.1})
    values = [dimension.at((k + 0.5) / 8) for k in range(8)]
    assert values == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_uniform_values_are_uniform() -> None:
    drawn = many({"uniform": [-2, 5]})
    assert stats.kstest(drawn, stats.uniform(-2, 7).cdf).pvalue > 0.05


def test_loguniform_values_are_log_uniform() -> None:
    drawn = many({"loguniform": [1e-6, 10]})
    assert stats.kstest(drawn, stats.loguniform(1e-6, 10).cdf).pvalue > 0.05
    assert stats.kstest(drawn, stats.uniform(1e-6, 10).cdf).pvalue < 1e-6


@pytest.mark.parametrize(
    ("entry", "values"),
    [
        ({"integer": [-3, 7]}, list(range(-3, 8))),
        ({"integer": [1, 12], "step": 3}, [1, 4, 7, 10]),
        ({"uniform": [0, 1], "step": 0.25}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"choice": ["a", "b", 1, True, 0.5]}, ["a", "b", 1, True, 0.5]),
    ],
)
def test_integers_steps_and_choices_are_equally_frequent(
    entry: dict[str, Any], values: list[Any]
) -> None:
    counts = Counter(map(repr, many(entry)))
    assert sorted(counts) == sorted(map(repr, values))
    assert stats.chisquare(list(counts.values())).pvalue > 0.05


@pytest.mark.parametrize(("low", "high", "step"), [(1, 20, 1), (16, 128, 16)])
def test_log_integers_are_as_frequent_as_their_inverse_the_ends_too(
    low: int, high: int, step: int
) -> None:
    counts = Counter(many({"integer": [low, high], "log": True, "step": step}))
    values = range(low, high + 1, step)
    shares = np.array([log((v + step / 2) / (v - step / 2)) for v in values])
    expected = shares / shares.sum() * sum(counts.values())
    assert stats.chisquare([counts[v] for v in values], expected).pvalue > 0.05
    inverse = np.array([1 / v for v in values])
    assert shares / shares.sum() == pytest.approx(inverse / inverse.sum(), rel=0.1)


@pytest.mark.parametrize(
    ("entry", "limits"),
    [
        ({"loguniform": [1e-6, 10]}, (1e-7, 100)),  # a decade
        ({"loguniform": [1e-2, 1e-1]}, (10**-2.5, 10**-0.5)),  # half of a narrow range
        ({"loguniform": [1e-6, 10], "widen": False}, (1e-6, 10)),
        ({"loguniform": [1e-6, 10], "widen": [1e-9, 10]}, (1e-9, 10)),
        ({"uniform": [0, 0.6]}, (0, 0.6)),
        ({"uniform": [-1, 1], "widen": True}, (-2, 2)),
        ({"uniform": [0, 0.6], "widen": True}, (0, 0.9)),  # never another sign
        ({"uniform": [1, 9], "widen": True}, (0.5, 13)),
        ({"uniform": [-9, -1], "widen": True}, (-13, -0.5)),
        ({"uniform": [0, 0.6], "widen": [0, 0.9]}, (0, 0.9)),
        ({"uniform": [0, 1], "step": 0.25, "widen": [-0.3, 1.6]}, (-0.25, 1.5)),
        ({"integer": [1, 9]}, (1, 9)),
        ({"integer": [4, 9], "widen": True}, (2, 11)),
        ({"integer": [1, 3], "widen": True}, (1, 4)),
        ({"integer": [1, 9], "log": True, "widen": True}, (1, 27)),
        ({"integer": [32, 512], "log": True, "step": 32, "widen": True}, (32, 2048)),
        ({"integer": [24, 56], "log": True, "step": 16, "widen": True}, (24, 72)),
        ({"integer": [1, 9], "step": 4, "widen": [-4, 20]}, (-3, 17)),
    ],
)
def test_a_range_may_be_widened_up_to_its_limits(
    entry: dict[str, Any], limits: tuple[float, float]
) -> None:
    dimension = axis(entry)
    assert (dimension.at(-100.0), dimension.at(100.0)) == pytest.approx(limits)


def test_a_nan_coordinate_or_value_has_no_place() -> None:
    for entry in ({"uniform": [0, 1]}, {"integer": [0, 1]}, {"choice": [0, 1]}):
        with pytest.raises(ValueError, match="NaN"):
            axis(entry).at(nan)
    for value in (nan, "0.5", True):
        with pytest.raises(ValueError, match="x:"):
            axis({"uniform": [0, 1]}).locate(value)
    with pytest.raises(ValueError, match="none of its choices"):
        axis({"choice": [1, 2]}).locate(True)


# --- the space -------------------------------------------------------------------------------

NESTED = {
    "lr": {"loguniform": [1e-4, 1]},
    "nesterov": {"choice": [True, False], "when": {"optimizer": "sgd"}},
    "damping": {"uniform": [0, 1], "when": {"optimizer": "sgd", "nesterov": False}},
    "optimizer": {"choice": ["sgd", "rmsprop", "adamw"]},
    "batch_size": 32,
    "momentum": {"uniform": [0.5, 0.99], "when": {"optimizer": ["sgd", "rmsprop"]}},
    "beta": {"value": 0.9, "when": {"optimizer": "adamw"}},
    "depth": {"integer": [1, 3], "when": {"nesterov": [True, False]}},
}


def test_parameters_exist_only_where_their_conditions_hold() -> None:
    space = Space.parse(NESTED)
    assert [axis.name for axis in space.axes] == [
        "lr", "nesterov", "damping", "optimizer", "momentum", "depth",
    ]  # fmt: skip
    sgd_nesterov = space.at([0.0, 0.1, 0.5, 0.1, 0.0, 0.0])
    assert sgd_nesterov == {
        "lr": 1e-4, "nesterov": True, "optimizer": "sgd", "batch_size": 32, "momentum": 0.5,
        "depth": 1,
    }  # fmt: skip
    assert list(sgd_nesterov) == [name for name in NESTED if name in sgd_nesterov]
    assert set(space.at([0.0, 0.9, 0.5, 0.1, 0.0, 0.0])) == set(NESTED) - {"beta"}
    assert set(space.at([0.0, 0.9, 0.5, 0.5, 0.0, 0.0])) == {
        "lr", "optimizer", "batch_size", "momentum",
    }  # fmt: skip
    assert set(space.at([0.0, 0.9, 0.5, 0.9, 0.0, 0.0])) == {
        "lr", "optimizer", "batch_size", "beta",
    }  # fmt: skip


@settings(deadline=None)
@given(st.lists(units, min_size=6, max_size=6))
def test_a_point_comes_back_from_its_hyperparameters(point: list[float]) -> None:
    space = Space.parse(NESTED)
    params = space.at(point)
    located = space.locate(params)
    for dimension, u, back in zip(space.axes, point, located, strict=True):
        assert isnan(back) is (dimension.name not in params)
        if dimension.name in params and not dimension.cells:
            assert back == pytest.approx(u, abs=1e-9)
    again = space.at(located)
    assert again.keys() == params.keys()
    for name, value in params.items():
        assert again[name] == (pytest.approx(value) if type(value) is float else value)
    # through JSON, as the ledger and the queue carry them
    assert space.locate(json.loads(json.dumps(params))) == pytest.approx(located, nan_ok=True)


def test_the_order_in_the_file_does_not_matter_to_conditions() -> None:
    backwards = Space.parse(dict(reversed(NESTED.items())))
    point = dict(zip([axis.name for axis in Space.parse(NESTED).axes], [0.3] * 6, strict=True))
    assert backwards.at([0.3] * 6) == Space.parse(NESTED).at(list(point.values()))


def test_a_parameter_whose_condition_fails_is_not_located() -> None:
    space = Space.parse(NESTED)
    located = space.locate({"lr": 1e-4, "optimizer": "adamw", "momentum": 0.6, "depth": 1})
    assert isnan(located[4]) and isnan(located[5])


def test_true_and_1_are_two_values() -> None:
    space = Space.parse(
        {"a": {"choice": [1, True, 0]}, "b": {"uniform": [0, 1], "when": {"a": True}}}
    )
    assert "b" not in space.at([0.0, 0.5]) and "b" in space.at([0.5, 0.5])
    assert space.locate({"a": True, "b": 0.5}) == [0.5, 0.5]
    assert space.at([0.5, 0.5])["a"] is True


def test_a_space_without_axes_has_one_point() -> None:
    space = Space.parse({"lr": 0.1, "name": "x"})
    assert space.at([]) == {"lr": 0.1, "name": "x"} and space.locate({"lr": 0.1}) == []
    assert space.whole().at([]) == []


def test_a_point_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError):
        Space.parse({"lr": {"uniform": [0, 1]}}).at([0.1, 0.2])


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ({"loguniform": [0, 1]}, "x.loguniform", "must be above 0 (found 0); use uniform"),
        ({"loguniform": [-1, 1]}, "x.loguniform", "must be above 0 (found -1)"),
        ({"loguniform": ["1e-4", 1]}, "x.loguniform", '"1e-4", which is text): remove the quotes'),
        ({"loguniform": [1e-4, True]}, "x.loguniform", "needs a number (found true)"),
        ({"loguniform": [1e-4]}, "x.loguniform", "needs two numbers, [low, high] (found [0.0001])"),
        ({"loguniform": [1, 2], "step": 1}, "x.step", "no meaning for loguniform"),
        ({"uniform": [2, 1]}, "x.uniform", "the range is empty"),
        ({"uniform": [1, 1]}, "x.uniform", "(found [1, 1]); for a fixed value"),
        ({"uniform": [0, inf]}, "x.uniform", "finite number (found inf)"),
        ({"uniform": [nan, 1]}, "x.uniform", "finite number (found nan)"),
        ({"uniform": [0, 10**400]}, "x.uniform", "finite number"),
        ({"uniform": [0, 1.7e308]}, "x.uniform", "between -1e+300 and 1e+300"),
        ({"uniform": [0, 1], "step": 0}, "x.step", "above 0"),
        ({"uniform": [0, 1], "step": "0.1"}, "x.step", "remove the quotes"),
        ({"uniform": [0, 1], "step": 1.5}, "x.step", "at most the width"),
        ({"uniform": [0, 1], "step": 1e-300}, "x.step", "less than 2^40 values"),
        ({"uniform": [0, 1], "log": True}, "x.log", 'write "loguniform"'),
        ({"uniform": [0, 1], "stpe": 0.1}, "x.stpe", 'did you mean "step"?'),
        ({"uniform": [0, 1], "widen": [0.1, 2]}, "x.widen", "around [0, 1] (found [0.1, 2])"),
        ({"uniform": [0, 1], "widen": 2}, "x.widen", "needs two numbers"),
        ({"loguniform": [1, 2], "widen": [0, 2]}, "x.widen", "must be above 0 (found 0)"),
        ({"uniform": [0, 1e-300], "widen": [0, 1e300]}, "x.widen", "too far out"),
        ({"loguniform": [1e10, nextafter(1e10, 2e10)]}, "x.loguniform", "too close"),
        ({"integer": [1, 2.5]}, "x.integer", "whole number (found 2.5)"),
        ({"integer": [1, 9.0]}, "x.integer", "whole number (found 9.0); write 9"),
        ({"integer": [0, 9], "log": True}, "x.integer", "use integer without log"),
        ({"integer": [8, 64], "log": True, "step": 16}, "x.integer", "half the step, 8"),
        ({"integer": [1, 9], "log": 1}, "x.log", "true or false (found 1)"),
        ({"integer": [1, 2**50]}, "x.integer", "must lie between"),
        ({"choice": []}, "x.choice", "at least one value (found [])"),
        ({"choice": "sgd"}, "x.choice", 'needs a list of at least one value (found "sgd")'),
        ({"choice": [1, 2, 1.0]}, "x.choice", "1.0 is listed twice"),
        ({"choice": [1, inf]}, "x.choice", "finite"),
        ({"choice": [1, 2], "widen": True}, "x.widen", "no meaning for choice"),
        ({"value": [1, 2]}, "x.value", "write { choice = [...] }"),
        ([1, 2], "x", "{ uniform = [low, high] }"),
        ({"logunifrom": [1, 2]}, "x", '(found logunifrom); did you mean "loguniform"?'),
        ({"uniform": [0, 1], "choice": [1]}, "x", "exactly one of"),
        ({}, "x", "(found nothing)"),
    ],
)
def test_a_wrong_dimension_is_refused_with_its_key(entry: Any, key: str, words: str) -> None:
    message = complaint({"x": entry})
    assert message.startswith(f"space.{key}: ") and words in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("table", "key", "words"),
    [
        ({"b": {"value": 1, "when": {"aa": 1}}}, "b.when.aa", '"aa"; did you mean "a"?'),
        ({"b": {"value": 1, "when": {"lr": 0.1}}}, "b.when.lr", "lr is continuous"),
        ({"b": {"value": 1, "when": {"a": 3}}}, "b.when.a", "a is never 3; it is one of 1, 2"),
        ({"b": {"value": 1, "when": {"a": True}}}, "b.when.a", "a is never true"),
        ({"b": {"value": 1, "when": {"n": [2, 9]}}}, "b.when.n", "n is never 9; it is from 1 to 4"),
        ({"b": {"value": 1, "when": {"fixed": 6}}}, "b.when.fixed", "is always 5, never 6"),
        ({"b": {"value": 1, "when": {"a": []}}}, "b.when.a", "at least one value"),
        ({"b": {"value": 1, "when": "a"}}, "b.when", 'a table like { optimizer = "sgd" }'),
        ({"b": {"choice": [1], "when": {"b": 1}}}, "b.when", "depends on itself: b -> b"),
        (
            {"b": {"value": 1, "when": {"c": 1}}, "c": {"value": 1, "when": {"b": 1}}},
            "b.when", "depends on itself: b -> c -> b",
        ),
    ],
)  # fmt: skip
def test_a_wrong_condition_is_refused_with_its_key(
    table: dict[str, Any], key: str, words: str
) -> None:
    parents = {
        "a": {"choice": [1, 2]}, "lr": {"uniform": [0, 1]}, "n": {"integer": [1, 4]}, "fixed": 5,
    }  # fmt: skip
    message = complaint({**parents, **table})
    assert message.startswith(f"space.{key}: ") and words in message
    assert len(message.splitlines()) == 1


def test_a_quoted_number_is_text_where_text_is_allowed() -> None:
    space = Space.parse({"a": "1e-4", "b": 1e-4, "c": {"choice": ["1", 1]}})
    assert space.at([0.0]) == {"a": "1e-4", "b": 1e-4, "c": "1"}
    assert space.at([0.9])["c"] == 1


def test_every_wrong_dimension_is_named() -> None:
    message = complaint({"a": {"uniform": [1, 0]}, "b": {"choice": []}, "c d": 1})
    assert [line.partition(":")[0] for line in message.splitlines()] == [
        "space.a.uniform", "space.b.choice", "space.c d",
    ]  # fmt: skip


# --- boxes -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 60), st.data())
def test_a_box_of_kept_choices_gives_these_alone_and_equally_often(
    count: int, data: st.DataObject
) -> None:
    dimension = axis({"choice": list(range(count))})
    indices = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    box = Box((tuple(dimension.cell(index) for index in indices),))
    given_ = [dimension.at(box.at([u])[0]) for u in [0.0, LAST, *np.linspace(0, LAST, 7)]]
    assert set(given_) <= set(indices) and given_[:2] == [indices[0], indices[-1]]
    middles = [dimension.at(box.at([(k + 0.5) / len(indices)])[0]) for k in range(len(indices))]
    assert middles == indices


@settings(deadline=None)
@given(dimensions, units.filter(lambda u: u < 1))
def test_the_whole_box_changes_no_point(entry: dict[str, Any], u: float) -> None:
    whole = Space.parse({"x": entry}).whole()
    assert whole.at([u]) == pytest.approx([u], abs=1e-12)


def test_a_box_is_run_through_in_proportion_to_its_intervals() -> None:
    box = Box((((-0.5, 0.0), (0.5, 1.5)),))
    assert [box.at([u])[0] for u in (0.0, 1 / 6, 1 / 3, 2 / 3)] == pytest.approx(
        [-0.5, -0.25, 0.5, 1]
    )
    assert 1.4999 < box.at([LAST])[0] < 1.5


def test_a_box_may_be_a_single_point() -> None:
    assert Box((((0.3, 0.3),),)).at([0.7]) == [0.3]
    assert Box((((0.3, 0.3), (0.6, 0.6)),)).at([0.7]) == [0.6]


def test_a_box_survives_json() -> None:
    space = Space.parse(NESTED)
    for box in (space.whole(), Box((((0.1, 1 / 3),), ((-0.5, 0.2), (0.4, 1.25)))), Box(())):
        assert Box.from_json(json.loads(json.dumps(box.to_json()))) == box


@pytest.mark.parametrize(
    "side", [(), ((0.5, 0.4),), ((0.0, 0.5), (0.4, 1.0)), ((nan, 1.0),), ((0.0, inf),)]
)
def test_a_side_that_is_no_list_of_ascending_intervals_is_refused(side: Any) -> None:
    with pytest.raises(ValueError, match="no ascending list"):
        Box((side,))


@pytest.mark.parametrize("u", [[], [0.1, 0.2], [1.0], [-0.1], [nan]])
def test_a_box_stretches_points_of_the_half_open_cube_only(u: list[float]) -> None:
    with pytest.raises(ValueError, match="no point of"):
        Box((((0.0, 1.0),),)).at(u)
