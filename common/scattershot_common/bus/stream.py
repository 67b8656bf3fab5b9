"""A study's event stream, in which workers report, as the master reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scattershot_common.bus.keys import Keys

if TYPE_CHECKING:
    from redis import Redis


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a trial by a worker or a command, as the Lua scripts wrote it.

    `why` is the `Outcome` of an attempt that has no result. An event "kind" is of no trial (-1):
    `worker` is then a signature, `why` how its trials are trained.
    """

    id: str
    kind: str
    trial: int
    attempt: int
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    worker: str = ""
    reason: str = ""
    why: str = ""


class EventStream:
    """Reads a study's events in order, from a cursor that the master keeps in its ledger."""

    def __init__(self, connection: Redis, study: str) -> None:
        self._connection = connection
        self._key = Keys(study).events

    def read(self, cursor: str, *, block_ms: int | None, count: int = 500) -> list[Event]:
        """Return the events after `cursor`, waiting up to `block_ms` for the first one."""
        answer: Any = self._connection.xread(
            {self._key: cursor or "0"}, count=count, block=block_ms
        )
        return [
            _event(entry_id, fields) for _, entries in answer or () for entry_id, fields in entries
        ]

    def trim(self, cursor: str) -> None:
        """Delete the events up to `cursor`: they are in the ledger."""
        self._connection.xtrim(self._key, minid=cursor, approximate=True)


def position(cursor: str) -> tuple[int, int]:
    """Return a stream id as numbers that sort as the stream does; "" is before everything.

    >>> position("1700000000000-9") < position("1700000000000-10")
    True
    """
    milliseconds, _, number = cursor.partition("-")
    return int(milliseconds or 0), int(number or 0)


def _event(entry_id: str, fields: dict[str, str]) -> Event:
    return Event(
        id=entry_id,
        kind=fields["e"],
        trial=int(fields["t"]),
        attempt=int(fields.get("a") or 0),
        epoch=int(fields.get("n", 0)),
        metrics=json.loads(fields["m"]) if "m" in fields else {},
        checkpoint=fields.get("f", ""),
        worker=fields.get("w", ""),
        reason=fields.get("r", ""),
        why=fields.get("y", ""),
    )
