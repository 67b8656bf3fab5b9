"""Pages of `check` and `recipe`: what was checked, each check's result, and the totals."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from scattershot_common.task.check_result import CheckResult, Status
from scattershot_common.trial import Value
from scattershot_master.show import tables
from scattershot_master.show.layout import Cell, Page, TextLine, line

_STYLES: Mapping[Status, str] = {
    "pass": "green",
    "warn": "yellow",
    "fail": "bold red",
    "skipped": "dim",
}
_MARKS = {"meaning": "", "detail": "· ", "remedy": "→ "}
#: The column in which a result's further lines begin.
_INDENT = 9
#: A folded text keeps at least this many characters a line, however narrow the terminal.
_MIN_WIDTH = 30


def head(task: str, params: Mapping[str, Value]) -> Page:
    """Return the lines above the results: the task and the hyperparameters it is checked with."""
    text = tables.params(params) or "no hyperparameters"
    return [*_folded([Cell(f"{task}  ", "bold")], text, "dim"), line()]


def result_lines(result: CheckResult) -> list[TextLine]:
    """Return the lines about one check, folded to the terminal's width if there is one."""
    style = _STYLES[result.status]
    name = [Cell(f"{result.status:<{_INDENT}}", style), Cell(f"{result.name:<15} ")]
    lines = _folded(name, result.found)
    for kind, text in result.lines():
        start = [Cell(" " * _INDENT), Cell(_MARKS[kind], style)]
        lines += _folded(start, text, "dim" if kind == "detail" else "")
    return lines


def foot(results: Sequence[CheckResult], file: Path, plot: Path | None) -> Page:
    """Return the lines below the results: how many of each status, and the files written."""
    counts = Counter(result.status for result in results)
    totals = ", ".join(f"{count} {status}" for status, count in counts.items())
    plots = [line(f"plot     {plot}")] if plot else []
    return [line(), line(Cell(totals, "bold")), *plots, line(f"results  {file}")]


def _folded(start: Sequence[Cell], text: str, style: str = "") -> list[TextLine]:
    """Return `text` behind the cells of `start`, folded to the terminal's width if there is one."""
    indent = sum(len(cell.text) for cell in start)
    lines = [text]
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = textwrap.wrap(text, max(width - indent, _MIN_WIDTH)) or [""]
    first = line(*start, Cell(lines[0], style))
    return [first, *(line(" " * indent, Cell(rest, style)) for rest in lines[1:])]
