"""The commands that only look: `status`, `top`, `show`, `diagnose`, `export`. They need no Redis.

Each imports what it needs when it is called, so that `top` does not wait for what `export` uses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from scattershot_common.errors import ScattershotError, StudyFileError

Folder = Annotated[
    Path | None,
    typer.Argument(
        help="The study's folder, or an output root: its latest study. Default: checkpoints/.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON (NaN becomes null).")]


def status(folder: Folder = None, json: Json = False) -> None:
    """Show where a study stands: stages, best trial, warnings, workers, time left."""
    from scattershot_master.commands import study_folder
    from scattershot_master.show import study_page
    from scattershot_master.show.terminal import print_page
    from scattershot_master.state import progress
    from scattershot_master.state.ledger import read

    path = study_folder.study_folder(folder)
    state = read(path)
    running, now = study_folder.running(path), time.time()
    if not json:
        print_page(study_page.status(state, path, running=running, now=now))
        return
    from scattershot_master.export import data as export_data
    from scattershot_master.state.border_warnings import border_warnings

    stages = progress.stages(state)
    rate = progress.rate_from_ends(state, now) if running else None
    paths = export_data.CheckpointPaths(state, path)
    _print_json(
        {
            "study": export_data.study_data(state, path),
            "running": running,
            "seconds_left": progress.time_left(stages, rate),
            "stages": export_data.stage_data(state),
            "warnings": export_data.warning_data(border_warnings(state)),
            "best": [export_data.trial_data(trial, paths) for trial in progress.leaders(state, 1)],
            "failures": [
                {"reason": reason, "trials": trials} for reason, trials in progress.failures(state)
            ],
            "workers": [
                {"worker": name, "trial": trial.number, "state": trial.state}
                for name, trial in progress.last_trials(state).items()
            ],
            "ensemble": state.ensemble,
        }
    )


def top(
    folder: Folder = None,
    number: Annotated[int, typer.Option("--number", "-n", help="How many trials.", min=1)] = 10,
    json: Json = False,
) -> None:
    """Show the best trials of a study with their hyperparameters."""
    from scattershot_master.commands import study_folder
    from scattershot_master.state.ledger import read

    path = study_folder.study_folder(folder)
    state = read(path)
    if json:
        from scattershot_master.export import data as export_data
        from scattershot_master.state import progress

        best = progress.leaders(state, number)
        paths = export_data.CheckpointPaths(state, path)
        trials = [export_data.trial_data(trial, paths) for trial in best]
        _print_json({"study": export_data.study_data(state, path), "trials": trials})
    else:
        from scattershot_master.show.tables import top as table
        from scattershot_master.show.terminal import print_page

        print_page(table(state, number))


def show(
    trial: Annotated[str, typer.Argument(help="The trial's number: 17 or 00017.")],
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Show one trial: hyperparameters, every epoch, checkpoints. Its files alone are enough."""
    from scattershot_master.commands import study_folder
    from scattershot_master.show import trial_page
    from scattershot_master.show.terminal import print_page
    from scattershot_master.state.ledger import LEDGER

    number = _number(trial)
    path = study_folder.study_folder(folder, (LEDGER, "trials"))
    view = trial_page.read_trial(path, number)
    if json:
        _print_json(trial_page.trial_view_data(view, path))
    else:
        print_page(trial_page.trial_page(view))


def diagnose(
    trial: Annotated[
        str | None,
        typer.Argument(help="A trial's number; without one the whole study.", show_default=False),
    ] = None,
    folder: Folder = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Write the trial's first weights, as images, to this PNG file.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Say what is wrong with a trial, or with the study: evidence, and what to do."""
    from scattershot_master.commands import study_folder
    from scattershot_master.diagnosis.diagnose import diagnose as findings_in
    from scattershot_master.diagnosis.read_cases import read_study_case, read_trial_case
    from scattershot_master.show import diagnosis_trial
    from scattershot_master.show.terminal import print_page
    from scattershot_master.state.ledger import read

    if trial is not None and folder is None and not trial.isdigit():
        folder, trial = Path(trial), None
    number = None if trial is None else _number(trial)
    path = study_folder.study_folder(folder)
    state = read(path)
    if number is None:
        if picture is not None:
            raise StudyFileError("--picture needs the number of a trial: diagnose 17 --picture …")
        from scattershot_master.show import diagnosis_study  # takes longer to import

        study = read_study_case(state, path)
        if json:
            _print_json(diagnosis_study.study_data(study))
        else:
            print_page(diagnosis_study.study_page(study))
        return
    record = state.trials.get(number)
    if record is None:
        numbers = f"{min(state.trials)} to {max(state.trials)}" if state.trials else "none yet"
        raise ScattershotError(f"there is no trial {number} in {path}: it has {numbers}")
    case = read_trial_case(state, record, state.checkpoints(path))
    findings = findings_in(case)
    if picture is not None:
        _write_first_layer(record.number, case.layers, picture)
    if json:
        _print_json(diagnosis_trial.diagnosis_data(state, record, findings, case))
    else:
        print_page(diagnosis_trial.diagnosis_page(state, record, findings, case))


def _write_first_layer(trial: int, layers: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the picture of a trial's first weights.

    Raises:
        ScattershotError: there is none, or the file cannot be written; says why.
    """
    from scattershot_common.local_files import write
    from scattershot_master.figures.first_layer import first_layer_png  # imports numpy

    png = first_layer_png(layers)
    if png is None:
        raise ScattershotError(
            f"there is no picture of trial {trial}: one is taken from epoch 8 on, now and "
            "then, where the first weights look at images"
        )
    write(path, png, sync=False)
    print(f"wrote the first weights of trial {trial} to {path}", file=sys.stderr)


def _number(trial: str) -> int:
    if not (trial.isascii() and trial.isdigit() and len(trial) <= 18):
        raise StudyFileError(f"{trial!r} is no trial; write its number: 17, or 00017")
    return int(trial)


def export(
    folder: Folder = None,
    json: Annotated[bool, typer.Option("--json", help="The whole study as JSON.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="A row per trial (default).")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="CSV with a row per trial and epoch instead.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write to this file; *.json gets JSON.")] = None,
) -> None:
    """Export a study for other programs, the best trial first: CSV, or --json."""
    from scattershot_master.commands import study_folder
    from scattershot_master.export import FORMATS
    from scattershot_master.show.terminal import print_text
    from scattershot_master.state.ledger import read

    if json and (csv or history):
        raise StudyFileError("--json has everything in it; --csv and --history are for CSV")
    suffix = ".json" if json else out.suffix if out and not csv else ".csv"
    if suffix not in FORMATS or (history and FORMATS[suffix].whole):
        suffix = ".csv"
    path = study_folder.study_folder(folder)
    state = read(path)
    content = FORMATS[suffix].write(state, path, history)
    if out is None:
        print_text(content.decode())
        return
    try:
        out.write_bytes(content)
    except OSError as error:
        raise ScattershotError(f"{out} cannot be written: {error.strerror}") from None
    print(f"wrote {len(state.trials)} trials of {state.name} to {out}", file=sys.stderr)


def _print_json(data: object) -> None:
    from scattershot_master.export.json_format import json_text
    from scattershot_master.show.terminal import print_text

    print_text(json_text(data) + "\n")
