"""The command `check`: what is wrong with a study's task before anything is learned."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattershot_common.errors import StudyFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scattershot_common.task.check_result import CheckResult
    from scattershot_common.trial import Value


def check(
    file: Annotated[Path, typer.Argument(help="Study file (TOML).", show_default=False)],
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run this check only; may be given more than once.", show_default=False),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="A hyperparameter, as hidden=64 (default: the middle of the space).",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    out: Annotated[
        Path, typer.Option(help="Output root; plots and check.json go to STUDY.check in it.")
    ] = Path("checkpoints"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check data, loss, gradients and learning rates before a search.

    Exit code 1 if a check fails.
    """
    from scattershot_common.problems import check_device
    from scattershot_common.study.study_file import load
    from scattershot_common.task.check_result import select_checks
    from scattershot_master.launch.check_process import middle, read_params, run_checks
    from scattershot_master.search.open_study import data_folder
    from scattershot_master.show import check_page
    from scattershot_master.show.terminal import print_page

    check_device(device)
    study = load(file)
    try:
        select_checks(only or [])
    except ValueError as error:
        raise StudyFileError(f"--only: {error}") from None
    params = middle(study.space, read_params(param or []))
    folder = out / f"{study.study.name}.check"
    try:  # before minutes of checks, whose results would be lost
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyFileError(f"--out: cannot make the folder {folder}: {error.strerror}") from None
    if not as_json:
        print_page(check_page.head(study.study.task, params))
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
            print_page(check_page.result_lines(result))  # at once: the next may take a minute
            sys.stdout.flush()
    results_file = folder / "check.json"
    plot = save_results(results, params, results_file)
    failed = any(result.status == "fail" for result in results)
    if as_json:
        data = {
            "ok": not failed,
            "study": study.study.name,
            "params": params,
            "checks": [result.to_json() for result in results],
            "plot": None if plot is None else str(plot),
        }
        print(json.dumps(data))
    else:
        print_page(check_page.foot(results, results_file, plot))
    raise typer.Exit(1 if failed else 0)


def save_results(
    results: list[CheckResult], params: Mapping[str, Value], file: Path
) -> Path | None:
    """Write the results as JSON to `file`, and the rates' plot beside it; return the plot, if any.

    Raises:
        ScattershotError: the folder cannot be written.
    """
    from scattershot_common.local_files import write, write_json
    from scattershot_master.figures.charts import lr_range_chart

    checks = [result.to_json() for result in results]
    write_json(file, {"params": params, "checks": checks})
    for result in results:
        if result.name == "rates" and result.numbers.get("rates"):
            plot = file.with_name("learning-rates.svg")
            write(plot, lr_range_chart(result.numbers).encode(), sync=False)
            return plot
    return None
