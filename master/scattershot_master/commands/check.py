"""Owns `check`: what is wrong with a study's task before anything is learned."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattershot_common.errors import StudyFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scattershot_common.task.check_result import CheckResult
    from scattershot_common.trial import Value
    from scattershot_master.show.layout import Cell, Line

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}
#: Where a result's further lines begin.
_INDENT = 9


def check(
    file: Annotated[Path, typer.Argument(help="Study file (TOML).", show_default=False)],
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run this check alone; as often as needed.", show_default=False),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A hyperparameter, as hidden=64 (default: the middle of the space).",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    out: Annotated[
        Path, typer.Option(help="Output root: plots and check.json are put in STUDY.check in it.")
    ] = Path("checkpoints"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check data, loss, gradients and learning rates before a search.

    Exit code 1 if a check fails.
    """
    from scattershot_common.devices import check_device
    from scattershot_common.study.study_file import load
    from scattershot_common.task.check_result import chosen
    from scattershot_master.launch.check_process import middle, read_params, run_checks
    from scattershot_master.search.open_study import data_folder

    check_device(device)
    study = load(file)
    try:
        chosen(only or [])
    except ValueError as error:
        raise StudyFileError(f"--only: {error}") from None
    params = middle(study.space, read_params(param or []))
    folder = out / f"{study.study.name}.check"
    try:  # before minutes of checks, whose results would be lost
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyFileError(f"--out: cannot make the folder {folder}: {error.strerror}") from None
    if not as_json:
        _head(study.study.task, params)
    results = []
    for result in run_checks(
        study,
        params,
        only=only or [],
        device=device,
        data=data_folder(study, file),
        paths=[file.resolve().parent, Path.cwd()],
    ):
        results.append(result)
        if not as_json:
            show(result)
    plot = keep(results, params, folder)
    failed = any(result.status == "fail" for result in results)
    if as_json:
        print(
            json.dumps(
                {
                    "ok": not failed,
                    "study": study.study.name,
                    "params": params,
                    "checks": [result.to_json() for result in results],
                    "plot": None if plot is None else str(plot),
                }
            )
        )
    else:
        _foot(results, folder, plot)
    raise typer.Exit(1 if failed else 0)


def keep(results: list[CheckResult], params: Mapping[str, Value], folder: Path) -> Path | None:
    """Write the results as `check.json` into `folder`; return the plot of the rates, if any.

    Raises:
        ScattershotError: the folder cannot be written.
    """
    from scattershot_common.store.files import write, write_json
    from scattershot_master.figures.lr_range import rates_chart

    write_json(
        folder / "check.json",
        {"params": params, "checks": [result.to_json() for result in results]},
    )
    for result in results:
        if result.name == "rates" and result.numbers.get("rates"):
            plot = folder / "learning-rates.svg"
            write(plot, rates_chart(result.numbers).encode(), sync=False)
            return plot
    return None


def show(result: CheckResult) -> None:
    """Print a result at once, its long lines folded under one another on a terminal."""
    from scattershot_master.show.layout import Cell, put

    style = _STYLES[result.status]
    put(_folded([Cell(f"{result.status:<9}", style), Cell(f"{result.name:<15} ")], result.found))
    marks = {"meaning": "", "detail": "· ", "remedy": "→ "}
    for kind, said in result.lines():
        start = [Cell(" " * _INDENT), Cell(marks[kind], style)]
        put(_folded(start, said, "dim" if kind == "detail" else ""))
    sys.stdout.flush()


def _folded(start: list[Cell], said: str, style: str = "") -> list[Line]:
    """Return `said` behind the cells of `start`, folded to the terminal's width if there is one."""
    from scattershot_master.show.layout import Cell, line

    left = sum(len(cell.text) for cell in start)
    lines = [said]
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = textwrap.wrap(said, max(width - left, 30)) or [""]
    first = line(*start, Cell(lines[0], style))
    return [first, *(line(" " * left, Cell(more, style)) for more in lines[1:])]


def _head(task: str, params: Mapping[str, Value]) -> None:
    from scattershot_master.show.layout import Cell, put

    listed = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )
    put([*_folded([Cell(f"{task}  ", "bold")], listed or "no hyperparameters", "dim"), []])
    sys.stdout.flush()


def _foot(results: list[CheckResult], folder: Path, plot: Path | None) -> None:
    from scattershot_master.show.layout import Cell, line, put

    counts = Counter(result.status for result in results)
    put(
        [[], line(Cell(", ".join(f"{count} {status}" for status, count in counts.items()), "bold"))]
    )
    if plot:
        put([line(f"plot     {plot}")])
    put([line(f"results  {folder / 'check.json'}")])
