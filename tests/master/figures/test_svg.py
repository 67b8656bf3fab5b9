from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from scattershot_master.figures.svg import Series, line_chart

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*series: Series, **options: object) -> ElementTree.Element:
    text = line_chart("loss <over> rate", series, x_title="x & y", y_title="y", **options)  # type: ignore[arg-type]
    return ElementTree.fromstring(text)


def texts(svg: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


def points(svg: ElementTree.Element) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (p.split(",") for p in line.get("points", "").split())]
        for line in svg.iter(f"{SVG}polyline")
    ]


def test_a_chart_is_one_svg_element_whatever_its_titles_hold() -> None:
    svg = drawn(Series("a", [1, 2, 3], [1, 4, 9]))
    assert svg.tag == f"{SVG}svg" and "loss <over> rate" in texts(svg) and "x & y" in texts(svg)


def test_a_curve_rises_to_the_right_and_up() -> None:
    ((first, second, third),) = points(drawn(Series("a", [1, 2, 3], [1, 4, 9])))
    assert first[0] < second[0] < third[0] and first[1] > second[1] > third[1]


def test_powers_of_ten_are_equally_far_on_a_log_axis() -> None:
    svg = drawn(Series("a", [1e-3, 1e-2, 1e-1], [1, 2, 3]), log_x=True)
    ((first, second, third),) = points(svg)
    assert third[0] - second[0] == pytest.approx(second[0] - first[0], abs=0.2)
    assert {"0.001", "0.01", "0.1"} <= set(texts(svg))


def test_values_that_are_not_finite_or_above_the_top_are_gaps() -> None:
    curve = Series("a", [1, 2, 3, 4, 5, 6, 7], [1, 2, float("nan"), 3, 4, 99, None])
    svg = drawn(curve, top=5.0)
    assert [len(run) for run in points(svg)] == [2, 2]


def test_marks_and_the_legend_are_named() -> None:
    svg = drawn(Series("a", [1, 2], [1, 2]), Series("b", [1, 2], [2, 1]), marks=[(1.5, "here")])
    assert {"here", "a", "b"} <= set(texts(svg))


@pytest.mark.parametrize("values", [[], [3.0], [2.0, 2.0]])
def test_curves_with_nothing_to_scale_are_drawn_all_the_same(values: list[float]) -> None:
    svg = drawn(Series("a", [1.0] * len(values), values))
    assert not re.search("nan|inf", ElementTree.tostring(svg, "unicode"))
