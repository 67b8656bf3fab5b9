"""The commands `run` (everything on this machine) and `master` (workers elsewhere)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from scattershot_common.bus.connection import URL_VARIABLE, url_from
from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_common.standard_streams import go_on_without_output

if TYPE_CHECKING:
    from scattershot_common.study.settings import StudyFile
    from scattershot_master.search.observer import Observers
    from scattershot_master.search.run_study import End
    from scattershot_master.state.ledger import Ledger

#: Seconds that a master gets to leave its study to one that takes over.
_LEAVES_WITHIN = 30.0

_OUT = typer.Option(help="Output root: the study's folder is made in it.")
_FRESH = typer.Option("--fresh", help="Begin anew in a new folder; nothing is deleted.")


def run(
    file: Annotated[Path, typer.Argument(help="Study file (TOML).", show_default=False)],
    workers: Annotated[
        int | None,
        typer.Option(help="Trials at a time (default: one per GPU, else per core).", min=1),
    ] = None,
    out: Annotated[Path, _OUT] = Path("checkpoints"),
    fresh: Annotated[bool, _FRESH] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    lanes: Annotated[
        str,
        typer.Option(help="Small trials that a worker trains at once: auto, or a maximum."),
    ] = "auto",
    redis: Annotated[str | None, typer.Option(help="Use this Redis, not an embedded one.")] = None,
) -> None:
    """Run a study on this machine: master, workers and an embedded Redis, to its end.

    Running it again goes on where it was; Ctrl-C stops cleanly.
    """
    from scattershot_common.problems import check_device
    from scattershot_master.search.open_study import data_folder, note_home
    from scattershot_master.search.run_study import End, LocalRun, search_here

    check_device(device)
    before = {*out.glob("*")}
    study, ledger = _open(file, out, fresh)
    home, observers = file.resolve().parent, observers_of_terminal()
    paths, data = [home, Path.cwd()], data_folder(study, file)
    here = LocalRun(url_from(redis), workers, out, device, lanes)
    try:
        with _removed_unless_begun(ledger, before, private=here.redis is None):
            note_home(ledger, home, data)
            if not ledger.state.finished:
                end = search_here(ledger, here, data, paths, observers)
                if end is not End.OVER:
                    exit_unfinished(observers, ledger.folder, end)
            _finish(ledger, data, paths, observers)
    finally:
        observers.close()
        ledger.close()
    _print_result(ledger)


def master(
    file: Annotated[Path, typer.Argument(help="Study file (TOML).", show_default=False)],
    redis: Annotated[
        str | None,
        typer.Option(help=f"Redis URL; better in {URL_VARIABLE}, which `ps` does not show."),
    ] = None,
    out: Annotated[Path, _OUT] = Path("checkpoints"),
    fresh: Annotated[bool, _FRESH] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Take the study from a master that still holds it.")
    ] = False,
) -> None:
    """Run a study's master alone; workers join with `scattershot worker --redis URL`."""
    url = url_from(redis)
    if url is None:
        raise StudyFileError(
            f"name the Redis that the workers use: --redis URL, or {URL_VARIABLE} set to it "
            "(on one machine `scattershot run` needs none)"
        )
    from scattershot_master.search.open_study import note_home
    from scattershot_master.search.run_study import End, search

    before = {*out.glob("*")}
    study, ledger = _open(file, out, fresh, taken_from=url if take_over else None)
    home, observers = file.resolve().parent, observers_of_terminal()
    data = study.study.data  # workers on other machines have it where they have it
    try:
        with _removed_unless_begun(ledger, before, private=False):
            note_home(ledger, home, data)
            if not ledger.state.finished:
                end = search(ledger, url, data, observers, take_over=take_over)
                if end is not End.OVER:
                    exit_unfinished(observers, ledger.folder, end)
            _finish(ledger, data, [home, Path.cwd()], observers)
    finally:
        observers.close()
        ledger.close()
    _print_result(ledger)


def _open(
    file: Path,
    out: Path,
    fresh: bool,
    *,
    taken_from: str | None = None,
) -> tuple[StudyFile, Ledger]:
    """Open the study; a master that runs it in the Redis at `taken_from` is deposed."""
    from scattershot_common.study.study_file import load
    from scattershot_master.search.open_study import newest_folder, open_study

    study, wait_s = load(file), 0.0
    folder = newest_folder(out, study.study.name)
    if taken_from is not None and folder is not None and not fresh:
        _depose(taken_from, folder.name)
        wait_s = _LEAVES_WITHIN
    text = file.read_text(encoding="utf-8-sig")
    return open_study(study, text, out, fresh=fresh, wait_s=wait_s)


@contextmanager
def _removed_unless_begun(
    ledger: Ledger, before: Collection[Path], *, private: bool
) -> Iterator[None]:
    """Remove a new study folder after an error before its first trial was trained.

    The next start would go on in it with these settings, or begin beside it. What an error tells
    to look at stays, and so does what an object store knows by this ledger's id. In a Redis that
    is not `private` to this run others may know of the study as soon as a stage is open: a master
    that has taken it over, or workers. The ledger must be open, so that nobody else has it.
    """
    try:
        yield
    except ScattershotError as error:
        state, folder = ledger.state, ledger.folder
        trained = any(trial.attempts or trial.history for trial in state.trials.values())
        begun = trained or (bool(state.stages) and not private)
        named = str(folder) in str(error)
        if folder not in before and not begun and state.store is None and not named:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _depose(url: str, study: str) -> None:
    """Take a study from the master that runs it in the Redis at `url`; it stops within seconds."""
    from scattershot_common.bus.connection import connect, reach
    from scattershot_master.search.redis_study import depose_master

    connection = connect(url)
    reach(connection, url)
    depose_master(connection, study)


def observers_of_terminal() -> Observers:
    """Return what shows a running study on this terminal, or in a log; it runs on without it."""
    go_on_without_output()
    from scattershot_master.search.observer import Observers
    from scattershot_master.show.live import LiveView

    return Observers([LiveView()])


def exit_unfinished(observers: Observers, folder: Path, end: End) -> NoReturn:
    """Say where a stopped study is and which command goes on with it, and exit."""
    from scattershot_master.search.run_study import INTERRUPTED, End

    observers.close()
    options = ("--fresh", "--take-over")
    arguments = [argument for argument in sys.argv[1:] if argument not in options]
    print(
        f"stopped; nothing is lost. What there is: scattershot status {folder}\n"
        f"To go on:  scattershot {' '.join(arguments)}"
    )
    raise typer.Exit(INTERRUPTED if end is End.INTERRUPTED else 0)


def _finish(ledger: Ledger, data: str | None, paths: list[Path], observers: Observers) -> None:
    """Build and test the ensemble, and finish the study."""
    from scattershot_master.ensemble.build_ensemble import (
        build_ensemble,
        evaluate_on_test_part,
        record_ensemble,
    )
    from scattershot_master.state.events import StudyFinished
    from scattershot_master.state.progress import finite

    state, folder = ledger.state, ledger.folder
    settings = state.settings
    if not state.finished and finite(state):
        observers.note("building the ensemble, and testing it once on the test part")
        try:
            ensemble = build_ensemble(
                state, folder, size=settings.ensemble.size, method=settings.ensemble.method
            )
            ensemble = evaluate_on_test_part(
                state, folder, ensemble, data=data, paths=paths, threads=settings.worker.threads
            )
            record_ensemble(ledger, ensemble)
        except ScattershotError as error:
            observers.note(str(error))
    if not state.finished:
        ledger.append(StudyFinished())
        ledger.commit(sync=True)
        observers.study_finished(state)


def _print_result(ledger: Ledger) -> None:
    from scattershot_master.show.study_page import final
    from scattershot_master.show.terminal import print_page

    print_page(final(ledger.state, ledger.folder))
