"""The page model: lines of styled text and tables, laid out as text of a given width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

#: Separates two columns.
GAP = "  "
#: A shortened title keeps at least this many characters.
MIN_TITLE = 6


class Cell(NamedTuple):
    """A piece of text with a rich style; `""` is the terminal's default."""

    text: str
    style: str = ""


TextLine = Sequence[Cell]


class Column(NamedTuple):
    """A table's column.

    Where the terminal is too narrow, the title may be shortened, the texts of a `long` column too,
    and `extra` columns are left out: the largest number first, from the right.
    """

    title: str
    right: bool = False
    long: bool = False
    extra: int = 0


class Table(NamedTuple):
    """A table: one cell per column in every row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


Page = Sequence[TextLine | Table]


def line(*parts: str | Cell) -> TextLine:
    """Return a line of texts and styled cells."""
    return [part if isinstance(part, Cell) else Cell(part) for part in parts]


def section(title: str, blocks: Page) -> Page:
    """Return `blocks` under a title; an empty page if there are none."""
    return [line(), line(Cell(title, "bold")), *blocks] if blocks else []


def table_lines(table: Table, width: int | None = None) -> list[TextLine]:
    """Return a table's lines, aligned, none wider than `width` characters (None: any width).

    Titles and long texts that do not fit are shortened with "…" first; then columns are left out
    from the right, and a last line names them.

    >>> table = Table([Column("trial", right=True), Column("weight_decay", extra=1)],
    ...               [[Cell("7"), Cell("1.0e-04")]])
    >>> for cells in table_lines(table):
    ...     print("".join(cell.text for cell in cells))
    trial  weight_decay
        7  1.0e-04
    >>> print("".join(cell.text for cell in table_lines(table, 15)[0]))
    trial  weight_…
    """
    columns, rows = list(table.columns), table.rows
    left_out: list[str] = []
    while True:
        contents = [max((len(row[i].text) for row in rows), default=0) for i in range(len(columns))]
        widths = [max(len(c.title), w) for c, w in zip(columns, contents, strict=True)]
        if width is None or _fit(columns, contents, widths, width):
            break
        largest, index = max((column.extra, i) for i, column in enumerate(columns))
        if not largest:
            break
        left_out.insert(0, columns.pop(index).title)
        rows = [[*row[:index], *row[index + 1 :]] for row in rows]
    titles = [Cell(column.title, "dim") for column in columns]
    header = [titles] if any(title.text for title in titles) else []
    lines = [_row(cells, columns, widths) for cells in (*header, *rows)]
    if left_out:
        noun = "column" if len(left_out) == 1 else "columns"
        named = f"+{len(left_out)} {noun} in a wider window: {', '.join(left_out)}"
        lines.append([Cell(_cut(named, width or len(named)), "dim")])
    return lines


def _fit(columns: Sequence[Column], contents: list[int], widths: list[int], width: int) -> bool:
    """Narrow `widths`, in place, until they fit; return whether they do."""
    minimum = [
        min(current, max(MIN_TITLE, 0 if column.long else content))
        for column, content, current in zip(columns, contents, widths, strict=True)
    ]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while excess > 0:
        slack, widest = max(
            (w - m, i) for i, (w, m) in enumerate(zip(widths, minimum, strict=True))
        )
        if slack <= 0:
            return False
        widths[widest] -= 1
        excess -= 1
    return True


def _row(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int]) -> TextLine:
    parts: list[Cell] = []
    for index, (cell, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        text = _cut(cell.text, width)
        last = index == len(widths) - 1
        if column.right:
            text = text.rjust(width)
        elif not last:
            text = text.ljust(width)
        parts.append(cell._replace(text=text))
        if not last:
            parts.append(Cell(GAP))
    return parts


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def height(page: Page) -> int:
    """Return the number of lines of a page, without those that name columns left out of a table."""
    return sum(1 + len(block.rows) if isinstance(block, Table) else 1 for block in page)


def plain_text(page: Page) -> str:
    """Return a page as aligned text, nothing cut, no styles: for files, pipes and grep."""
    lines: list[TextLine] = []
    for block in page:
        lines += table_lines(block) if isinstance(block, Table) else [block]
    return "".join("".join(cell.text for cell in cells).rstrip() + "\n" for cells in lines)
