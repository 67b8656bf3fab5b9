"""The commands `ensemble build` and `ensemble eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_master.commands.study_folder import study_folder

if TYPE_CHECKING:
    from scattershot_master.state.ledger import Ledger

app = typer.Typer(help="Build ensembles from the checkpoints, and test them.", no_args_is_help=True)

_FOLDER = typer.Argument(help="The study's folder (default: the newest under checkpoints/).")
_JSON = typer.Option("--json", help="Print JSON.")


@app.command()
def build(
    folder: Annotated[Path | None, _FOLDER] = None,
    size: Annotated[
        int | None, typer.Option(help="Maximum number of members (default: the study's).", min=1)
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="greedy or top (default: the study's).")
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Choose members by saved validation predictions; needs neither torch nor test data."""
    from scattershot_master.ensemble import METHODS
    from scattershot_master.ensemble.build_ensemble import build_ensemble, record_ensemble

    if method is not None and method not in METHODS:
        raise StudyFileError(f"--method {method}: there are {', '.join(METHODS)}")
    ledger = _ledger(folder)
    try:
        settings = ledger.state.settings.ensemble
        result = build_ensemble(
            ledger.state,
            ledger.folder,
            size=size or settings.size,
            method=method or settings.method,
        )
        record_ensemble(ledger, result)
    finally:
        ledger.close()
    _print(result, as_json)


@app.command("eval")
def evaluate(
    folder: Annotated[Path | None, _FOLDER] = None,
    data: Annotated[
        str | None, typer.Option(help="The task's data folder, if it has moved.")
    ] = None,
    path: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of your own code (default: the study file's, then this one)."),
    ] = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Run the ensemble and the best single model over the test part, once."""
    from scattershot_master.ensemble.build_ensemble import evaluate_on_test_part, record_ensemble

    ledger = _ledger(folder)
    try:
        state = ledger.state
        if state.ensemble is None:
            raise ScattershotError("there is no ensemble yet: scattershot ensemble build first")
        result = evaluate_on_test_part(
            state,
            ledger.folder,
            {**state.ensemble, "note": ""},
            data=data or state.data or state.settings.data,
            paths=path or [Path(state.home), Path.cwd()],
            threads=state.settings.worker.threads,
        )
        if result["test"] is None:
            raise ScattershotError(result["note"])
        record_ensemble(ledger, result)
    finally:
        ledger.close()
    _print(result, as_json)


def _ledger(given: Path | None) -> Ledger:
    from scattershot_master.state.ledger import Ledger

    return Ledger(study_folder(given))


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    from scattershot_master.show.tables import ensemble
    from scattershot_master.show.terminal import print_page

    print_page(ensemble(result))
