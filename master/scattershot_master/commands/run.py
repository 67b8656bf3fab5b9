"""Owns `run` (everything on this machine) and `master` (workers elsewhere)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from scattershot_common.bus.connection import URL_VARIABLE, url_from
from scattershot_common.errors import ScattershotError, StudyFileError

if TYPE_CHECKING:
    from scattershot_common.bus.server import EmbeddedServer
    from scattershot_common.study.settings import StudyFile
    from scattershot_master.search.redis_study import RedisStudy
    from scattershot_master.search.search import Search
    from scattershot_master.show.live import LiveView
    from scattershot_master.state.ledger import Ledger

#: How a search ended: at its end, by `scattershot stop`, or by a signal.
End = Literal["over", "stopped", "interrupted"]
#: Seconds to wait for a Redis that may be starting as well; as long as workers do.
_PATIENCE = 60.0
#: Seconds that a master gets to leave its study to one that takes over.
_ROOM = 30.0
#: What a shell calls "ended by Ctrl-C".
INTERRUPTED = 130

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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    lanes: Annotated[
        str,
        typer.Option(help="Small trials that a worker trains at once: auto, or a maximum."),
    ] = "auto",
    redis: Annotated[str | None, typer.Option(help="Use this Redis, not an embedded one.")] = None,
) -> None:
    """Run a study on this machine: master, workers and an embedded Redis, to its end.

    Running it again goes on where it was; Ctrl-C stops cleanly.
    """
    from scattershot_master.search.open_study import data_folder, note_home

    study, ledger = _open(file, out, fresh)
    home, view = file.resolve().parent, live_view()
    paths, data = [home, Path.cwd()], data_folder(study, file)
    here = LocalRun(url_from(redis), workers, out, device, lanes)
    try:
        note_home(ledger, home, data)
        if not ledger.state.finished:
            end = search_here(study, ledger, here, data, paths, view)
            if end != "over":
                say_how_to_go_on(view, ledger.folder, end)
        _conclude(study, ledger, data, paths, view)
    finally:
        view.close()
        ledger.close()
    _say_the_end(ledger)


@dataclass(frozen=True)
class LocalRun:
    """How a study runs on this machine: its Redis (None: an embedded one), workers, output root."""

    redis: str | None
    workers: int | None
    out: Path
    device: str
    lanes: str = "auto"


def search_here(
    study: StudyFile,
    ledger: Ledger,
    here: LocalRun,
    data: str | None,
    paths: list[Path],
    view: LiveView,
) -> End:
    """Run a study's search with workers of this machine; return how it ended."""
    from scattershot_master.launch.local import LocalWorkers

    _claim_store(ledger)
    with ExitStack() as stack:
        url, server = _redis_for(ledger.folder, here.redis, stack)
        pool = LocalWorkers(
            url,
            slots=here.workers or _default_slots(),
            root=here.out,
            device=here.device,
            threads=study.worker.threads,
            lanes=here.lanes,
            paths=paths,
            log=ledger.folder / "logs" / "workers.log",
        )
        stack.callback(pool.stop)

        def tend() -> None:
            pool.tend()
            if server is not None:
                server.tend()

        gone = server is not None and server.fresh
        return _search(study, ledger, url, data, view, workers_gone=gone, tend=tend)


def _redis_for(
    folder: Path, url: str | None, stack: ExitStack
) -> tuple[str, EmbeddedServer | None]:
    """Return the URL of the user's Redis, else of an embedded one that `stack` stops."""
    from scattershot_common.bus.server import EmbeddedServer

    if url is not None:
        return url, None
    server = EmbeddedServer(folder / "redis")
    server.start()
    stack.callback(server.stop)
    return server.url, server


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

    study, ledger = _open(file, out, fresh, taken_from=url if take_over else None)
    home, view = file.resolve().parent, live_view()
    data = study.study.data  # workers on other machines have it where they have it
    try:
        note_home(ledger, home, data)
        if not ledger.state.finished:
            _claim_store(ledger)
            end = _search(study, ledger, url, data, view, take_over=take_over)
            if end != "over":
                say_how_to_go_on(view, ledger.folder, end)
        _conclude(study, ledger, data, [home, Path.cwd()], view)
    finally:
        view.close()
        ledger.close()
    _say_the_end(ledger)


def _open(
    file: Path,
    out: Path,
    fresh: bool,
    *,
    taken_from: str | None = None,
) -> tuple[StudyFile, Ledger]:
    """Open the study; a master that runs it by the Redis at `taken_from` has to make room."""
    from scattershot_common.study.study_file import load
    from scattershot_master.search.open_study import newest_folder, open_study

    study, wait_s = load(file), 0.0
    folder = newest_folder(out, study.study.name)
    if taken_from is not None and folder is not None and not fresh:
        _unseat(taken_from, folder.name)
        wait_s = _ROOM
    text = file.read_text(encoding="utf-8-sig")
    return open_study(study, text, out, fresh=fresh, wait_s=wait_s)


def _unseat(url: str, study: str) -> None:
    from scattershot_common.bus.connection import connect, reach
    from scattershot_master.search.redis_study import unseat

    connection = connect(url)
    reach(connection, url)
    unseat(connection, study)


def _claim_store(ledger: Ledger) -> None:
    """Let the study have its place in the object store, if it is to keep checkpoints in one."""
    state = ledger.state
    if state.store is not None:
        state.checkpoints(ledger.folder).claim(state.uid)


def live_view() -> LiveView:
    """Return the view of a running study for this terminal, or for a log."""
    from scattershot_master.show.live import LiveView

    return LiveView()


def _search(
    study: StudyFile,
    ledger: Ledger,
    url: str,
    data: str | None,
    view: LiveView,
    *,
    workers_gone: bool = False,
    take_over: bool = False,
    tend: Callable[[], None] = lambda: None,
) -> End:
    """Run the search; return how it ended."""
    from scattershot_common.bus.study_info import info_of
    from scattershot_master.search.redis_study import RedisStudy
    from scattershot_master.search.search import Search

    dispatch = RedisStudy(url, info_of(study, ledger.state.uid, data))
    _become_master(dispatch, url, view, by_force=take_over or workers_gone)
    try:
        search = Search(study, ledger, dispatch, view, tend)
        with _stops_cleanly(search, view) as interrupted:
            over = search.run(workers_gone=workers_gone)
        return "over" if over else "interrupted" if interrupted else "stopped"
    finally:
        _release(dispatch)


def _become_master(dispatch: RedisStudy, url: str, view: LiveView, *, by_force: bool) -> None:
    """Take the study, once Redis answers and no master that was killed holds it any more."""
    from scattershot_common.bus.connection import reach
    from scattershot_common.bus.outage import REDIS_OUTAGE

    while True:
        reach(dispatch.connection, url, wait_s=_PATIENCE, note=view.note)
        with suppress(*REDIS_OUTAGE):
            if not by_force:
                dispatch.outwait(view.note)
            dispatch.take(by_force=by_force)
            return


def _release(dispatch: RedisStudy) -> None:
    from redis.exceptions import RedisError

    with suppress(RedisError):  # its claim runs out by itself
        dispatch.release()


@contextmanager
def _stops_cleanly(search: Search, view: LiveView) -> Iterator[list[int]]:
    """Let the first Ctrl-C or SIGTERM end the loop, and a second one everything.

    Yields the signals that came.
    """
    came: list[int] = []

    def stop(signum: int, frame: object) -> None:
        if came:
            os._exit(INTERRUPTED)  # children die with us; the next run takes everything up
        came.append(signum)
        search.stopping = True
        view.note("stopping: running trials are given back (once more to end at once)")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say_how_to_go_on(view: LiveView, folder: Path, end: End) -> NoReturn:
    """Say where a stopped study is and which command goes on with it, and exit."""
    view.close()
    arguments = [one for one in sys.argv[1:] if one not in ("--fresh", "--take-over")]
    print(
        f"stopped; nothing is lost. What there is: scattershot status {folder}\n"
        f"To go on:  scattershot {' '.join(arguments)}"
    )
    raise typer.Exit(INTERRUPTED if end == "interrupted" else 0)


def _conclude(
    study: StudyFile, ledger: Ledger, data: str | None, paths: list[Path], view: LiveView
) -> None:
    """Build and test the ensemble, and close the study."""
    from scattershot_master.ensemble.build import (
        build_ensemble,
        evaluate_on_test_part,
        record_ensemble,
    )
    from scattershot_master.state.events import StudyFinished
    from scattershot_master.state.ranking import finite

    state, folder = ledger.state, ledger.folder
    if not state.finished and finite(state):
        view.note("building the ensemble, and testing it once on the test part")
        try:
            ensemble = build_ensemble(
                state, folder, size=study.ensemble.size, method=study.ensemble.method
            )
            ensemble = evaluate_on_test_part(
                state, folder, ensemble, data=data, paths=paths, threads=study.worker.threads
            )
            record_ensemble(ledger, ensemble)
        except ScattershotError as error:
            view.note(str(error))
    if not state.finished:
        ledger.append(StudyFinished())
        ledger.commit(sync=True)


def _say_the_end(ledger: Ledger) -> None:
    from scattershot_master.show.study_page import final
    from scattershot_master.show.terminal import print_page

    print_page(final(ledger.state, ledger.folder))


def _default_slots() -> int:
    """Return one slot per GPU if there is any, else one per core."""
    from scattershot_common.machine import cpu_count, gpu_names

    return len(gpu_names()) or cpu_count()
