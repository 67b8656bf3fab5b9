"""Owns what is shown before it is drawn: pages of lines and tables, and how these fit a width."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

#: Between two columns.
GAP = "  "
#: A shortened title keeps at least this many characters.
LEAST_TITLE = 6


class Cell(NamedTuple):
    """A piece of text with a rich style; `""` is the terminal's own."""

    text: str
    style: str = ""


Line = Sequence[Cell]


class Column(NamedTuple):
    """A table's column.

    In a terminal that is too narrow the title may be shortened, a `long` column's texts are, and
    `extra` columns are left out: those with the largest number first, from the right.
    """

    title: str
    right: bool = False
    long: bool = False
    extra: int = 0


class Sheet(NamedTuple):
    """A table: one cell per column in every row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]


Page = Sequence[Line | Sheet]


def line(*parts: str | Cell) -> Line:
    """Return a line of texts and styled cells."""
    return [part if isinstance(part, Cell) else Cell(part) for part in parts]


def section(title: str, blocks: Page) -> Page:
    """Return a part of a page under its title; nothing where there is nothing in it."""
    return [line(), line(Cell(title, "bold")), *blocks] if blocks else []


def laid_out(sheet: Sheet, width: int | None = None) -> list[Line]:
    """Return a table's lines, aligned, none wider than `width` characters (None: any width).

    What does not fit is shortened with "…" first, titles and long texts; then columns are left
    out from the right, and a last line names them.

    >>> table = Sheet([Column("trial", right=True), Column("weight_decay", extra=1)],
    ...               [[Cell("7"), Cell("1.0e-04")]])
    >>> for parts in laid_out(table):
    ...     print("".join(part.text for part in parts))
    trial  weight_decay
        7  1.0e-04
    >>> print("".join(part.text for part in laid_out(table, 15)[0]))
    trial  weight_…
    """
    columns, rows = list(sheet.columns), sheet.rows
    left_out: list[str] = []
    while True:
        contents = [max((len(row[i].text) for row in rows), default=0) for i in range(len(columns))]
        widths = [max(len(c.title), w) for c, w in zip(columns, contents, strict=True)]
        if width is None or _fit(columns, contents, widths, width):
            break
        most, at = max((column.extra, i) for i, column in enumerate(columns))
        if not most:
            break
        left_out.insert(0, columns.pop(at).title)
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
    titles = [Cell(column.title, "dim") for column in columns]
    head = [titles] if any(title.text for title in titles) else []
    lines = [_row(cells, columns, widths) for cells in (*head, *rows)]
    if left_out:
        noun = "column" if len(left_out) == 1 else "columns"
        more = f"+{len(left_out)} {noun} in a wider window: {', '.join(left_out)}"
        lines.append([Cell(_cut(more, width or len(more)), "dim")])
    return lines


def _fit(columns: Sequence[Column], contents: list[int], widths: list[int], width: int) -> bool:
    """Narrow `widths`, in place, until they fit; return whether they do."""
    least = [
        min(width_, max(LEAST_TITLE, 0 if column.long else content))
        for column, content, width_ in zip(columns, contents, widths, strict=True)
    ]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    while excess > 0:
        slack, widest = max((w - m, i) for i, (w, m) in enumerate(zip(widths, least, strict=True)))
        if slack <= 0:
            return False
        widths[widest] -= 1
        excess -= 1
    return True


def _row(cells: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int]) -> Line:
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
    """Return how many lines a page has, but for the names of columns left out of its tables."""
    return sum(1 + len(block.rows) if isinstance(block, Sheet) else 1 for block in page)


def plain(page: Page) -> str:
    """Return a page as text, aligned and never cut, without styles: for files, pipes and grep."""
    lines: list[Line] = []
    for block in page:
        lines += laid_out(block) if isinstance(block, Sheet) else [block]
    return "".join("".join(part.text for part in parts).rstrip() + "\n" for parts in lines)


def put(page: Page) -> None:
    """Print a page: in colour and fitted to the width on a terminal, else as `plain` text."""
    if sys.stdout.isatty():
        from rich.console import Console

        from scattershot_master.show.terminal import Drawing

        Console(highlight=False).print(Drawing(page))
    else:
        put_text(plain(page))


def put_text(text: str) -> None:
    """Write `text` to standard output, whatever its encoding can hold."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
