"""The `scattershot-worker` command: one supervisor per slot, restarted when it dies."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from scattershot_common.bus.connection import URL_VARIABLE, connect, reach, url_from
from scattershot_common.entry_points import program
from scattershot_common.errors import StudyFileError, exit_on_error
from scattershot_common.machine import WARNINGS, die_with_parent, on_stop
from scattershot_common.problems import check_device
from scattershot_common.standard_streams import command_streams, go_on_without_output
from scattershot_worker.supervisor.descendants import adopt_orphans, end_descendants

log = logging.getLogger("scattershot.worker")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def worker(
    redis: Annotated[
        str | None,
        typer.Option(help=f"Redis URL; better in {URL_VARIABLE}, which `ps` does not show."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Output root; every machine must see the same folder.")
    ] = Path("checkpoints"),
    device: Annotated[
        str, typer.Option(help="auto (a GPU per slot if there is one), cpu, cuda, or cuda:N.")
    ] = "auto",
    slots: Annotated[int, typer.Option(help="Trials at a time on this machine.", min=1)] = 1,
    threads: Annotated[
        int, typer.Option(help="CPU threads per trial; 1 keeps workers from fighting.", min=1)
    ] = 1,
    lanes: Annotated[
        str,
        typer.Option(help="Small trials trained at once as one program: auto, or a maximum."),
    ] = "auto",
    path: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of your own code, as often as needed (default: this folder)."),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Train only tasks of this name or pattern, as often as needed."),
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for Redis to come up.")] = 60.0,
    with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
    slot: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Take trials from Redis and train them, until stopped (Ctrl-C, SIGTERM …: nothing is lost)."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for name in ("rq.worker", "rq.job"):
        logging.getLogger(name).setLevel(logging.ERROR)
    url = url_from(redis)
    if url is None:
        raise StudyFileError(
            f"name the Redis to work for: --redis URL, or {URL_VARIABLE} set to it"
        )
    check_device(device)
    maximum = read_lanes(lanes)
    os.environ[URL_VARIABLE] = url
    if slot is None and (slots > 1 or with_parent):
        _run_slots(slots)
        return
    _supervise(
        url,
        out=out,
        device=device,
        index=slot or 0,
        threads=threads,
        lanes=maximum,
        paths=path or [Path.cwd()],
        allow=allow or [],
        wait=wait,
        with_parent=with_parent,
    )


def read_lanes(text: str) -> int:
    """Return the number in --lanes, 0 for auto; raises StudyFileError for anything else."""
    if text == "auto":
        return 0
    if text.isdecimal() and 1 <= int(text) <= 4096:
        return int(text)
    raise StudyFileError(f"--lanes {text}: write auto, 1 (each trial by itself), or a number")


def _supervise(
    url: str,
    *,
    out: Path,
    device: str,
    index: int,
    threads: int,
    lanes: int,
    paths: list[Path],
    allow: list[str],
    wait: float,
    with_parent: bool,
) -> None:
    from scattershot_worker.child_settings import ChildSettings
    from scattershot_worker.supervisor.supervisor import Supervisor, SupervisorSettings

    rq_connection, states = connect(url, decode=False), connect(url)
    reach(states, url, wait_s=wait, note=log.info)
    # no pid: a container that is started again has the same one, and RQ takes it for its last self
    name = f"{socket.gethostname()}-{index}-{secrets.token_hex(3)}"
    settings = SupervisorSettings(
        name=name,
        child=ChildSettings(
            redis=url,
            worker=name,
            root=str(out.resolve()),
            device=f"auto:{index}" if device == "auto" else device,
            threads=threads,
            lanes=lanes,
            paths=tuple(str(folder.resolve()) for folder in paths),
            allow=tuple(allow),
        ),
        with_parent=with_parent,
        # torch reads these before our code runs; more threads than cores is slower than one
        environment={"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
    )
    log.info("worker %s takes trials", name)
    Supervisor(rq_connection, states, settings).work()
    log.info("worker %s has stopped", name)


def _run_slots(slots: int) -> None:
    """Run one process per slot, restart those that die, and stop all on a signal.

    A process that says that it can never train is not restarted; this ends when all say so.
    """
    stopping = asked = False
    unusable: set[int] = set()
    running: dict[int, subprocess.Popen[bytes]] = {}

    def stop(signum: int, frame: object) -> None:
        nonlocal stopping, asked
        second, asked = asked and signum not in WARNINGS, asked or signum not in WARNINGS
        stopping = True
        for process in running.values():
            # not SIGTERM: a batch system's own may come as well, and would be a second one
            process.send_signal(signal.SIGKILL if second else signal.SIGUSR2)

    on_stop(stop)
    started: dict[int, float] = {}
    adopt_orphans()  # of a slot that is killed
    while True:
        for index in range(slots):
            process = running.get(index)
            if process is not None and process.poll() is None:
                continue
            if process is not None:
                end_descendants([other.pid for other in running.values() if other.poll() is None])
            if process is not None and process.returncode == StudyFileError.exit_code:
                unusable.add(index)
            if stopping or index in unusable:
                running.pop(index, None)
                continue
            if process is not None:
                log.warning("worker %d ended (status %s); starting it again", index, process.poll())
                while not stopping and time.monotonic() - started[index] < 5:
                    time.sleep(0.1)  # it cannot even start: do not spin
            started[index] = time.monotonic()
            running[index] = subprocess.Popen(
                [*program("worker"), *sys.argv[1:], "--slot", str(index)],
                process_group=0,
                preexec_fn=die_with_parent(),
            )
            if stopping:  # the signal came before there was a process to pass it on to
                running[index].terminate()
        if len(unusable) == slots:
            sys.exit(StudyFileError.exit_code)
        if stopping and not running:
            return
        time.sleep(0.1)


def main() -> None:
    """Run the command."""
    with command_streams():
        go_on_without_output()
        exit_on_error(app)
