"""Running a study's search: as its master in some Redis, or with everything on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from redis.exceptions import RedisError

from scattershot_common.bus.connection import reach
from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.server import EmbeddedServer
from scattershot_common.bus.study_info import info_of
from scattershot_common.machine import WARNINGS, cpu_count, gpu_names, on_stop
from scattershot_master.launch.local import LocalLauncher
from scattershot_master.search.observer import Observers
from scattershot_master.search.redis_study import RedisStudy
from scattershot_master.search.search import Search
from scattershot_master.state.ledger import Ledger

#: Seconds to wait for a Redis that may be starting as well; as long as workers do.
_REDIS_STARTS = 60.0
#: What a shell calls "ended by Ctrl-C".
INTERRUPTED = 130


class End(Enum):
    """How a search ended."""

    OVER = "over"
    #: By `scattershot stop`.
    STOPPED = "stopped"
    #: By a signal.
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class LocalRun:
    """How a study runs on this machine: its Redis (None: an embedded one), workers, output root."""

    redis: str | None
    workers: int | None
    out: Path
    device: str
    lanes: str = "auto"


def search_here(
    ledger: Ledger,
    here: LocalRun,
    data: str | None,
    paths: Sequence[Path],
    observers: Observers,
) -> End:
    """Run a study's search with workers of this machine; return how it ended."""
    _claim_store(ledger)
    with ExitStack() as stack:
        server = None if here.redis is not None else EmbeddedServer(ledger.folder / "redis")
        if server is not None:
            server.start()
            stack.callback(server.stop)
        url = here.redis if server is None else server.url
        assert url is not None
        launcher = LocalLauncher(
            url,
            root=here.out,
            device=here.device,
            threads=ledger.state.settings.worker.threads,
            lanes=here.lanes,
            paths=paths,
            log=ledger.folder / "logs" / "workers.log",
        )
        stack.callback(launcher.stop)
        launcher.start(here.workers or len(gpu_names()) or cpu_count())

        def keep_alive() -> None:
            launcher.keep_alive()
            if server is not None:
                server.tend()

        fresh = server is not None and server.fresh
        return _search(
            ledger,
            url,
            data,
            observers,
            by_force=fresh,
            workers_gone=fresh,
            keep_alive=keep_alive,
        )


def search(
    ledger: Ledger,
    url: str,
    data: str | None,
    observers: Observers,
    *,
    take_over: bool = False,
) -> End:
    """Run a study's search as its master in the Redis at `url`; return how it ended.

    `data` is the folder of the task's data as the workers have it. `take_over`: whoever holds it.
    """
    _claim_store(ledger)
    return _search(
        ledger,
        url,
        data,
        observers,
        by_force=take_over,
        workers_gone=False,
        keep_alive=lambda: None,
    )


def _search(
    ledger: Ledger,
    url: str,
    data: str | None,
    observers: Observers,
    *,
    by_force: bool,
    workers_gone: bool,
    keep_alive: Callable[[], None],
) -> End:
    state = ledger.state
    redis_study = RedisStudy(url, info_of(state.settings, state.uid, data))
    _become_master(redis_study, url, observers, by_force=by_force)
    try:
        run = Search(ledger, redis_study, observers, keep_alive)
        with _stops_cleanly(run, observers) as signals:
            over = run.run(workers_gone=workers_gone)
        return End.OVER if over else End.INTERRUPTED if signals else End.STOPPED
    finally:
        with suppress(RedisError):  # its claim runs out by itself
            redis_study.release()


def _claim_store(ledger: Ledger) -> None:
    """Claim the study's place in the object store, if it keeps checkpoints in one."""
    state = ledger.state
    if state.store is not None:
        state.checkpoints(ledger.folder).claim(state.uid)


def _become_master(
    redis_study: RedisStudy, url: str, observers: Observers, *, by_force: bool
) -> None:
    """Take the study, once Redis answers and the claim of a master that was killed has run out."""
    while True:
        reach(redis_study.connection, url, wait_s=_REDIS_STARTS, note=observers.note)
        with suppress(*REDIS_OUTAGE):
            if not by_force:
                redis_study.wait_for_claim(observers.note)
            redis_study.take(by_force=by_force)
            return


@contextmanager
def _stops_cleanly(run: Search, observers: Observers) -> Iterator[list[int]]:
    """Let the first signal to stop end the loop, and a second Ctrl-C or SIGTERM the process.

    Yields the signals that came.
    """
    signals: list[int] = []

    def stop(signum: int, frame: object) -> None:
        signals.append(signum)
        if signum not in WARNINGS and sum(came not in WARNINGS for came in signals) > 1:
            os._exit(INTERRUPTED)  # children die with us; the next run takes everything up
        if len(signals) > 1:
            return
        run.stopping = True
        observers.note("stopping: running trials are given back (once more to end at once)")

    before = on_stop(stop)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
