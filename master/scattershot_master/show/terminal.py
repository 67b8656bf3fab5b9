"""Printing of pages: with rich on a terminal, else as plain text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from scattershot_master.show.layout import Page, Table, TextLine, plain_text, table_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.segment import Segment
    from rich.style import Style


def print_page(page: Page) -> None:
    """Print a page: in colour and fitted to the width on a terminal, else as `plain_text`."""
    if sys.stdout.isatty():
        from rich.console import Console  # a command whose output goes into a pipe needs no rich

        Console(highlight=False).print(RichPage(page))
    else:
        print_text(plain_text(page))


def print_text(text: str) -> None:
    """Write `text` to standard output; characters that its encoding lacks become "?"."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


class RichPage:
    """A page as a rich renderable: tables fitted to the width, other lines wrapped or cut to it."""

    def __init__(self, page: Page, *, wrap: bool = True) -> None:
        self._page = page
        self._wrap = wrap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the page's segments."""
        from rich.text import Text

        width = options.max_width
        for block in self._page:
            if isinstance(block, Table):
                for line in table_lines(block, width):
                    yield from _segments(line, width)
            elif self._wrap and sum(len(cell.text) for cell in block) > width:
                yield Text.assemble(*block)
            else:
                yield from _segments(block, width)


def _segments(line: TextLine, width: int) -> Iterator[Segment]:
    """Yield a line's segments, cut to `width`: a rich `Text` takes ten times as long."""
    from rich.segment import Segment

    segments = [Segment(text, _style(style)) for text, style in line]
    yield from Segment.adjust_line_length(segments, width, pad=False)
    yield Segment.line()


@cache
def _style(name: str) -> Style:
    from rich.style import Style

    return Style.parse(name)
