"""Owns the drawing of pages on a terminal, with rich."""

from __future__ import annotations

from functools import lru_cache

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from scattershot_master.show.layout import Line, Page, Sheet, laid_out


class Drawing:
    """A page as rich draws it: tables fitted to the width, other lines wrapped, or cut to it."""

    def __init__(self, page: Page, *, wrap: bool = True) -> None:
        self._page = page
        self._wrap = wrap

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the page's segments."""
        width = options.max_width
        for block in self._page:
            if isinstance(block, Sheet):
                for line in laid_out(block, width):
                    yield from _segments(line, width)
            elif self._wrap and sum(len(part.text) for part in block) > width:
                yield Text.assemble(*block)
            else:
                yield from _segments(block, width)


def _segments(line: Line, width: int) -> list[Segment]:
    """Return a line's segments, cut to `width`: rich's own texts cost ten times as much."""
    segments = [Segment(text, _style(style)) for text, style in line]
    return [*Segment.adjust_line_length(segments, width, pad=False), Segment.line()]


@lru_cache(maxsize=64)
def _style(words: str) -> Style:
    return Style.parse(words)
