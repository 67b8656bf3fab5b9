"""`doctor`: whether this machine, its Redis, its folders and its workers can run a study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattershot_common.bus.connection import URL_VARIABLE, connect, url_from

if TYPE_CHECKING:
    from scattershot_master.doctor.probe_result import ProbeResult

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    folder: Annotated[
        Path,
        typer.Argument(help="A study's folder, or an output root.", show_default=True),
    ] = Path("checkpoints"),
    redis: Annotated[
        str | None, typer.Option(help=f"Redis URL; or {URL_VARIABLE}, or the study's embedded one.")
    ] = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the workers' answers.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check Redis, clocks, folders, devices, workers and versions, and say what to do.

    Exit code 1 if something is wrong that a study would trip over.
    """
    results = []
    for result in _results(folder, url_from(redis), wait):
        results.append(result)
        if not as_json:
            _show(result)
    failed = any(result.level == "fail" for result in results)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [result.as_json() for result in results]}))
    raise typer.Exit(1 if failed else 0)


def _results(folder: Path, url: str | None, wait_s: float) -> Iterator[ProbeResult]:
    from scattershot_common.bus.server import running_url
    from scattershot_master.doctor import machine, storage
    from scattershot_master.doctor.probe_result import ok
    from scattershot_master.state.ledger import LEDGER

    torch = machine.Torch()  # takes seconds: the other probes run meanwhile
    is_study = (folder / LEDGER).exists() or (folder / "study.toml").exists()
    root = folder.absolute().parent if is_study else folder.absolute()
    yield machine.packages()
    yield machine.redis_binary(needed=url is None)
    yield from storage.check(root)
    if is_study:
        yield from storage.study(folder)
    url = url or (running_url(folder / "redis") if is_study else None)
    if url is None:
        yield ok("redis", f"none was named (--redis, {URL_VARIABLE}): `run` starts its own")
    else:
        yield from machine.trust(url)
        yield from _cluster(url, root, wait_s)
    yield torch.result()


def _cluster(url: str, root: Path, wait_s: float) -> Iterator[ProbeResult]:
    from redis.exceptions import RedisError

    from scattershot_common.bus.workers import living_workers
    from scattershot_master.doctor import server, storage, workers
    from scattershot_master.doctor.probe_result import fail

    connection = connect(url)
    results = list(server.check(connection, url))
    yield from results
    if results[0].level == "fail":
        return
    try:
        living = living_workers(connection)
        yield from workers.check(living)
        if living and root.is_dir():
            yield from storage.seen_by(connection, root, [worker.name for worker in living], wait_s)
    except RedisError as error:
        yield fail(
            "workers", f"Redis refuses to list them: {error}", "look at the rights of your user"
        )


def _show(result: ProbeResult) -> None:
    from scattershot_master.show.layout import Cell, line
    from scattershot_master.show.terminal import print_page

    print_page(
        [
            line(
                Cell(f"{result.level:<6}", _STYLES[result.level]),
                f"{result.subject:<16}",
                result.observation,
            )
        ]
    )
    if result.remedy:
        print_page([line(" " * 22, Cell("→ ", _STYLES[result.level]), result.remedy)])
