"""Owns the workers' signs of life: who is there, on what, since when."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from scattershot_common.bus.keys import WORKERS

if TYPE_CHECKING:
    from redis import Redis

#: Seconds of silence after which a worker no longer counts as there.
SILENCE = 20.0


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


def write(connection: Redis, pulse: Heartbeat) -> None:
    """Say that the worker is alive."""
    beat = redis_time(connection)
    connection.hset(WORKERS, pulse.name, json.dumps({**asdict(pulse), "beat": beat}))


def remove(connection: Redis, name: str) -> None:
    """Say that the worker has gone."""
    connection.hdel(WORKERS, name)


def read(connection: Redis) -> list[Heartbeat]:
    """Return the workers heard of within `SILENCE` seconds, by name; forget the silent ones."""
    now = redis_time(connection)
    alive: list[Heartbeat] = []
    for name, text in connection.hgetall(WORKERS).items():
        told = json.loads(text)
        # a worker of another version may tell less, or more
        pulse = Heartbeat(**{key: told[key] for key in Heartbeat.__slots__ if key in told})
        if now - pulse.beat <= SILENCE:
            alive.append(pulse)
        elif now - pulse.beat > 10 * SILENCE:
            connection.hdel(WORKERS, name)
    return sorted(alive, key=lambda pulse: pulse.name)


def redis_time(connection: Redis) -> float:
    """Return Redis' clock in seconds: the only one all machines share."""
    seconds, micros = connection.time()
    return int(seconds) + int(micros) / 1e6
