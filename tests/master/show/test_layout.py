import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scattershot_master import text as words
from scattershot_master.show.layout import (
    Cell,
    Column,
    Table,
    line,
    plain_text,
    section,
    table_lines,
)
from scattershot_master.show.terminal import RichPage, print_text

TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)


def text(grid: Table, width: int | None = None) -> list[str]:
    return ["".join(part.text for part in parts) for parts in table_lines(grid, width)]


def table(titles: list[str], *rows: list[str], extra: tuple[int, ...] = ()) -> Table:
    extras = extra or (0,) * len(titles)
    columns = [Column(title, extra=e) for title, e in zip(titles, extras, strict=True)]
    return Table(columns, [[Cell(text) for text in row] for row in rows])


def test_columns_are_as_wide_as_their_widest_text() -> None:
    assert text(table(["a", "title"], ["longer", "1"], ["x", "22"])) == [
        "a       title",
        "longer  1",
        "x       22",
    ]


def test_titles_are_shortened_before_a_column_is_left_out() -> None:
    grid = table(["lr", "weight_decay"], ["0.1", "0.001"], extra=(0, 1))
    assert text(grid, 12) == ["lr   weight…", "0.1  0.001"]


def test_columns_left_out_are_named() -> None:
    grid = table(["lr", "dropout", "hidden"], ["0.1", "0.5", "128"], extra=(0, 1, 1))
    assert text(grid, 13) == ["lr   dropout", "0.1  0.5", "+1 column in…"]
    wide = table(["lr", "x" * 40, "hidden"], ["0.1", "y" * 40, "128"], extra=(0, 1, 1))
    assert text(wide, 50)[2] == "+1 column in a wider window: hidden"


def test_columns_of_a_larger_number_are_left_out_first() -> None:
    grid = table(["state", "stage", "lr"], ["killed", "coarse", "0.1"], extra=(2, 3, 1))
    assert text(grid, 14)[0].split() == ["state", "lr"]
    assert text(grid, 5)[0].split() == ["lr"]


def test_a_column_that_is_needed_stays_in_the_narrowest_terminal() -> None:
    assert text(table(["trial"], ["12345"]), 2)[1] == "12345"


@given(st.lists(TEXT, min_size=1, max_size=6), st.lists(TEXT, min_size=6, max_size=6), st.data())
def test_a_table_whose_columns_may_all_go_never_exceeds_the_width(
    titles: list[str], cells: list[str], data: st.DataObject
) -> None:
    width = data.draw(st.integers(25, 80))
    columns = [Column(title, long=True, extra=1) for title in titles]
    grid = Table(columns, [[Cell(text) for text in cells[: len(titles)]]])
    assert all(len(shown) <= width for shown in text(grid, width))


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5))
def test_plain_text_holds_every_text_uncut(rows: list[tuple[str, str, str]]) -> None:
    shown = plain_text([table(["one", "two", "three"], *(list(row) for row in rows))])
    assert all(cell in shown for row in rows for cell in row)
    assert "\x1b" not in shown


def test_a_part_of_a_page_without_content_has_no_title() -> None:
    assert section("warnings", []) == []
    assert plain_text(section("warnings", [line("careful")])) == "\nwarnings\ncareful\n"


def test_a_terminal_gets_colours_and_whole_sentences() -> None:
    console = Console(force_terminal=True, width=20, file=io.StringIO(), color_system="standard")
    console.print(RichPage([line(Cell("killed", "yellow"), " since it was among the worst")]))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "\x1b[33mkilled" in shown
    assert "worst" in shown


def test_text_that_an_encoding_lacks_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    print_text("best · 0.9\n")
    sys.stdout.flush()
    assert buffer.getvalue() == b"best ? 0.9\n"


def test_a_column_of_log_values_is_scientific_whatever_their_size() -> None:
    write = words.params_format([0.5, 0.25], log=True)
    assert write(0.5) == "5.0e-01"


def test_values_of_a_linear_range_keep_three_digits_of_the_largest() -> None:
    write = words.params_format([412.5, 1.25], log=False)
    assert [write(412.5), write(1.25)] == ["412", "1"]


def test_tiny_values_are_never_shown_as_zero() -> None:
    assert words.params_format([1e-7, 0.5], log=False)(1e-7) == "1.0e-07"
    assert words.metric(1e-7) == "1.000e-07"


@pytest.mark.parametrize("count", [0, 1, 2, 59, 60, 61, 1000])
def test_a_sparkline_is_never_wider_than_asked(count: int) -> None:
    assert len(words.sparkline([float(i) for i in range(count)])) == min(count, 60)


def test_a_sparkline_of_nothing_but_nan_has_gaps_only() -> None:
    assert words.sparkline([float("nan"), float("inf")]) == "··"


def test_a_constant_curve_is_a_flat_line() -> None:
    assert words.sparkline([0.5, 0.5]) == "▁▁"
