"""Owns a worker's look at the trials that wait on the queue, and its taking one out of turn.

Reads RQ's own keys without RQ, whose import a warm child has no other need of.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scattershot_common.bus.keys import QUEUE, WORKERS, Keys, job_id
from scattershot_common.bus.queue import RUN_TRIAL, TrialSpec

if TYPE_CHECKING:
    from redis import Redis

_QUEUE_KEY = f"rq:queue:{QUEUE}"
_JOB_KEY = "rq:job:"


@dataclass(frozen=True, slots=True)
class Waiting:
    """An attempt on the queue: its spec, also as the text that was signed."""

    job: str
    spec: TrialSpec
    number: int
    text: str
    signature: str


class WaitingTrials:
    """The queue as one worker looks at it. Nothing here decides: a claim does."""

    def __init__(self, connection: Redis) -> None:
        """Take a connection made with `decode=False`: RQ's jobs are compressed."""
        self._connection: Any = connection
        self._read: dict[str, Waiting | None] = {}

    def look(self, study: str, uid: str, limit: int) -> list[Waiting]:
        """Return the attempts of one study among the first `limit` on the queue, first first.

        Jobs that cannot be read, or are none of ours, are left to the supervisors.
        """
        ids = [one.decode() for one in self._connection.lrange(_QUEUE_KEY, 0, limit - 1)]
        self._read = {one: self._read[one] for one in ids if one in self._read}
        mine = job_id(study, 0, 0).removesuffix("0-a0")
        unread = [one for one in ids if one not in self._read and one.startswith(mine)]
        if unread:
            pipe = self._connection.pipeline(transaction=False)
            for one in unread:
                pipe.hget(_JOB_KEY + one, "data")
            self._read |= {
                one: _parse(one, data) for one, data in zip(unread, pipe.execute(), strict=True)
            }
        found = [one for job in ids if (one := self._read.get(job))]
        return [one for one in found if (one.spec.study, one.spec.uid) == (study, uid)]

    def workers(self) -> int:
        """Return how many workers there are to share what waits, at least 1."""
        return max(1, int(self._connection.hlen(WORKERS)))

    def failures(self, attempts: Iterable[Waiting]) -> list[int]:
        """Return how often each trial has failed."""
        pipe = self._connection.pipeline(transaction=False)
        for one in attempts:
            pipe.hget(Keys(one.spec.study).trial(one.spec.trial), "failures")
        return [int(count or 0) for count in pipe.execute()]

    def left(self, study: str) -> int:
        """Return how many epochs the trials of a study that run have before them, all together."""
        keys = Keys(study)
        pipe = self._connection.pipeline(transaction=False)
        for trial in self._connection.zrange(keys.running, 0, -1):
            pipe.hmget(keys.trial(int(trial)), "until", "epoch")
        return sum(max(0, int(until or 0) - int(done or 0)) for until, done in pipe.execute())

    def remove(self, attempts: Iterable[Waiting]) -> None:
        """Take attempts off the queue, that this worker has claimed."""
        pipe = self._connection.pipeline(transaction=False)
        for one in attempts:
            pipe.lrem(_QUEUE_KEY, 1, one.job)
            pipe.delete(_JOB_KEY + one.job)
        pipe.execute()


def _parse(job: str, data: bytes | None) -> Waiting | None:
    """Return what RQ keeps of a job's call, if it is a trial's."""
    if data is None:
        return None
    try:
        function, _, arguments, _ = json.loads(zlib.decompress(data))
        text, number, signature = arguments
        if function != RUN_TRIAL:
            return None
        return Waiting(job, TrialSpec.from_json(text), int(number), text, str(signature))
    except (ValueError, TypeError, zlib.error):
        return None
