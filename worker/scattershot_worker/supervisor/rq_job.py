"""Owns what a worker reads of a job in RQ: the call that is asked for, and nothing else."""

from __future__ import annotations

from typing import Any, NoReturn

from rq.job import Job

from scattershot_common.bus.keys import QUEUE
from scattershot_common.bus.queue import BOOKS


class QueuedJob(Job):
    """A job of which only the call and its arguments are taken from Redis.

    RQ lets a job ask for more: callbacks, which are imported by name, webhooks, which the worker
    would call from inside its network, retries, repeats, a queue to be put back on. Whoever can
    write to Redis can ask for it; none of it is ever read here.
    """

    def restore(self, raw_data: Any) -> None:
        """Take the job's call, and our own settings in place of the job's."""
        super().restore({key: raw_data[key] for key in (b"data",) if key in raw_data})
        self.origin = QUEUE
        self.timeout, self.result_ttl = BOOKS["timeout"], BOOKS["result_ttl"]
        self.failure_ttl = BOOKS["failure_ttl"]

    @property
    def func(self) -> NoReturn:
        """Never: the supervisor looks at the call's name, and imports nothing by it."""
        raise ValueError("a worker imports nothing that a job names")
