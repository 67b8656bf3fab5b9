"""The workers as the master sees them: their heartbeats, and whether they see its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from scattershot_common.bus.keys import WORKERS
from scattershot_common.bus.queue import LOOK, send_command

if TYPE_CHECKING:
    from redis import Redis

#: Seconds without a heartbeat after which a worker no longer counts as living.
SILENCE = 20.0
#: Seconds for which the answers of workers about a folder are kept.
_ANSWERS_KEPT = 60


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A worker's sign of life. `beat` is Redis' time in seconds, set when it is written.

    `lanes` is how many trials it can train at a time, as far as it knows by now.
    """

    name: str
    host: str = "?"
    pid: int = 0
    device: str = "?"
    version: str = "?"
    started: float = 0.0
    beat: float = 0.0
    lanes: int = 1


def write_heartbeat(connection: Redis, heartbeat: Heartbeat) -> None:
    """Say that the worker is alive."""
    beat = redis_time(connection)
    connection.hset(WORKERS, heartbeat.name, json.dumps({**asdict(heartbeat), "beat": beat}))


def remove_heartbeat(connection: Redis, worker: str) -> None:
    """Say that the worker has gone."""
    connection.hdel(WORKERS, worker)


def living_workers(connection: Redis) -> list[Heartbeat]:
    """Return the workers heard of within `SILENCE` seconds, by name; forget the silent ones."""
    now = redis_time(connection)
    known = {field.name for field in fields(Heartbeat)}
    living: list[Heartbeat] = []
    for name, text in connection.hgetall(WORKERS).items():
        # a worker of another version may tell less, or more
        values = {key: value for key, value in json.loads(text).items() if key in known}
        heartbeat = Heartbeat(**values)
        if now - heartbeat.beat <= SILENCE:
            living.append(heartbeat)
        elif now - heartbeat.beat > 10 * SILENCE:
            connection.hdel(WORKERS, name)
    return sorted(living, key=lambda heartbeat: heartbeat.name)


def redis_time(connection: Redis) -> float:
    """Return Redis' clock in seconds: the only one all machines share."""
    seconds, micros = connection.time()
    return int(seconds) + int(micros) / 1e6


@dataclass(frozen=True, slots=True)
class FolderAnswer:
    """What a worker found: its output root, and what is wrong with it ("" if it is the same)."""

    root: str
    problem: str


def ask_for_folder(connection: Redis, workers: Iterable[str], nonce: str) -> None:
    """Ask workers to look for a probe file (`local_files.create_probe`) in their output roots."""
    for worker in workers:
        send_command(connection, worker, LOOK, nonce=nonce)


def look_for_folder(connection: Redis, worker: str, root: Path, nonce: str) -> None:
    """Look, and answer: the worker's side. May take as long as its file system does."""
    from scattershot_common.local_files import check_probe

    answer = FolderAnswer(str(root), check_probe(root, nonce))
    connection.hset(_answers_key(nonce), worker, json.dumps(asdict(answer)))
    connection.expire(_answers_key(nonce), _ANSWERS_KEPT)


def folder_answers(connection: Redis, nonce: str) -> dict[str, FolderAnswer]:
    """Return what the workers have answered so far."""
    answers = connection.hgetall(_answers_key(nonce))
    return {str(worker): FolderAnswer(**json.loads(text)) for worker, text in answers.items()}


def _answers_key(nonce: str) -> str:
    return f"ss:look:{nonce[:64]}"
