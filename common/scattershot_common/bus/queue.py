"""The queue of trials: RQ jobs, one per attempt. All use of RQ's keys outside a worker is here.

RQ is imported only by what needs more of it than its keys: a warm child does not.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from scattershot_common.bus import lua_scripts
from scattershot_common.bus.keys import QUEUE, WORKERS, Keys, job_id
from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.signing import secret
from scattershot_common.bus.trial_spec import AttemptKey, QueuedAttempt, TrialSpec

if TYPE_CHECKING:
    from redis import Redis

#: What a job calls: a name that workers know and never import.
RUN_TRIAL = "scattershot.run_trial"
#: `RUN_TRIAL`, and what it was in jobs that earlier versions queued: a function in its module.
_TRIAL_CALL = re.compile(r"scattershot\w*(\.\w+)*\.run_trial")
#: Commands to a worker, beside RQ's own: stop an attempt, look for a folder.
STOP, LOOK = "scattershot-stop", "scattershot-look"
#: RQ's own timeout is off (a trial may take days; leases watch it), and a finished job leaves
#: nothing in Redis: its result stands in the stream and the checkpoint.
BOOKS: dict[str, Any] = {
    "timeout": -1,
    "result_ttl": 0,
    "failure_ttl": 3600,
    "description": "trial",
}
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
_QUEUE_KEY = f"rq:queue:{QUEUE}"
_JOB_KEY = "rq:job:"


class TrialQueue:
    """Puts attempts on the queue that all workers share."""

    def __init__(self, connection: Redis) -> None:
        """Take a connection made with `decode=False`: RQ reads bytes."""
        from rq import Queue
        from rq.serializers import JSONSerializer

        #: RQ's own queue; JSON, so that nothing is ever unpickled.
        self.rq = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
        self._connection = connection

    def put(self, attempts: Iterable[tuple[TrialSpec, int]]) -> None:
        """Enqueue (spec, attempt) pairs in one round trip.

        An attempt that is on the queue twice does no harm: its second claim is refused.

        RQ makes one job, and the others are its like: made one by one, 100,000 took 13 s.
        """
        from rq.job import JobStatus

        arguments: list[str | bytes] = []
        key = secret()
        for spec, number in attempts:
            attempt = QueuedAttempt.signed(spec, number, key)
            call = _ENCODE((RUN_TRIAL, None, attempt.arguments, {})).encode()
            arguments += [_JOB_KEY + attempt.job, attempt.job, _packed(call)]
        if not arguments:
            return
        model = self.rq.create_job(RUN_TRIAL, status=JobStatus.QUEUED, **BOOKS)
        model.enqueued_at = model.created_at
        fields = {name: value for name, value in model.to_dict().items() if value != ""}
        del fields["data"]
        shared = [text for pair in fields.items() for text in pair]
        keys = [self.rq.key, self.rq.redis_queues_keys]
        lua_scripts.run(self._connection, "enqueue", keys, [json.dumps(shared), *arguments])

    def put_front(self, spec: TrialSpec, number: int) -> None:
        """Enqueue a further attempt before everything that waits; once, if asked twice."""
        from rq.exceptions import DuplicateJobError

        attempt = QueuedAttempt.signed(spec, number, secret())
        with contextlib.suppress(DuplicateJobError):
            self.rq.enqueue(
                RUN_TRIAL,
                args=attempt.arguments,
                job_id=attempt.job,
                at_front=True,
                unique=True,
                job_timeout=BOOKS["timeout"],
                result_ttl=BOOKS["result_ttl"],
                failure_ttl=BOOKS["failure_ttl"],
                description=BOOKS["description"],
            )

    def waiting(self) -> list[str]:
        """Return the job ids on the queue, first first."""
        return list(self.rq.get_job_ids())

    def taken(self) -> set[str]:
        """Return the job ids that living workers have taken off the queue and not finished."""
        registry = self.rq.started_job_registry
        members: Any = self._connection.zrangebyscore(registry.key, time.time(), "+inf")
        return {member.decode().partition(":")[0] for member in members}

    def remove(self, jobs: Iterable[str]) -> None:
        """Take jobs, by their ids, off the queue and forget them."""
        _remove(self._connection, jobs, 0)


class WaitingTrials:
    """The queue as a worker scans it for trials to take out of turn. A claim decides, not this."""

    def __init__(self, connection: Redis) -> None:
        """Take a connection made with `decode=False`: RQ's jobs are compressed."""
        self._connection: Any = connection
        #: What has been read of the jobs on the queue, by id; None for what is no attempt.
        self._attempts: dict[str, QueuedAttempt | None] = {}

    def look(self, study: str, uid: str, limit: int) -> list[QueuedAttempt]:
        """Return the attempts of one study among the first `limit` on the queue, first first.

        Jobs that cannot be read, or are none of ours, are left to the supervisors.
        """
        jobs = [job.decode() for job in self._connection.lrange(_QUEUE_KEY, 0, limit - 1)]
        self._attempts = {job: self._attempts[job] for job in jobs if job in self._attempts}
        prefix = job_id(study, 0, 0).removesuffix("0-a0")
        unread = [job for job in jobs if job not in self._attempts and job.startswith(prefix)]
        if unread:
            pipe = self._connection.pipeline(transaction=False)
            for job in unread:
                pipe.hget(_JOB_KEY + job, "data")
            self._attempts |= {
                job: _parse(job, data) for job, data in zip(unread, pipe.execute(), strict=True)
            }
        attempts = [attempt for job in jobs if (attempt := self._attempts.get(job))]
        return [
            attempt
            for attempt in attempts
            if (attempt.spec.study, attempt.spec.uid) == (study, uid)
        ]

    def workers(self) -> int:
        """Return how many workers there are to share what waits, at least 1."""
        return max(1, int(self._connection.hlen(WORKERS)))

    def failures(self, attempts: Iterable[QueuedAttempt]) -> list[int]:
        """Return how often each trial has failed."""
        pipe = self._connection.pipeline(transaction=False)
        for attempt in attempts:
            pipe.hget(Keys(attempt.spec.study).trial(attempt.spec.trial), "failures")
        return [int(count or 0) for count in pipe.execute()]

    def epochs_left(self, study: str) -> int:
        """Return how many epochs the running trials of a study have left, in sum."""
        keys = Keys(study)
        pipe = self._connection.pipeline(transaction=False)
        for trial in self._connection.zrange(keys.running, 0, -1):
            pipe.hmget(keys.trial(int(trial)), "until", "epoch")
        return sum(max(0, int(until or 0) - int(done or 0)) for until, done in pipe.execute())

    def remove(self, attempts: Iterable[QueuedAttempt]) -> None:
        """Take attempts off the queue that this worker has claimed."""
        _remove(self._connection, (attempt.job for attempt in attempts), 1)


def send_command(connection: Redis, worker: str, command: str, **payload: object) -> None:
    """Send a worker a command, on the channel on which RQ's workers listen."""
    from rq.command import send_command

    send_command(connection, worker, command, **payload)


def send_stop(connection: Redis, worker: str, attempt: AttemptKey, stop: StopReason) -> None:
    """Tell a worker to stop an attempt at once; its next heartbeat or report would tell it too."""
    send_command(connection, worker, STOP, stop=stop, attempt=attempt)


def calls_trial(function: object) -> bool:
    """Return whether a job that calls `function`, a name, asks for a trial to be run.

    >>> calls_trial(RUN_TRIAL), calls_trial("scattershot_worker.job.run_trial"), calls_trial("os")
    (True, True, False)
    """
    return _TRIAL_CALL.fullmatch(str(function)) is not None


def _remove(connection: Redis, jobs: Iterable[str], count: int) -> None:
    # each `count` times (0: wherever it stands, which takes a look at the whole queue)
    pipe = connection.pipeline(transaction=False)
    for job in jobs:
        pipe.lrem(_QUEUE_KEY, count, job)
        pipe.delete(_JOB_KEY + job)
    pipe.execute()


def _packed(call: bytes) -> bytes:
    # as RQ reads it; without compressing anything, which took longer than all the rest
    stream = zlib.compressobj(0, zlib.DEFLATED, 9, 1)
    return stream.compress(call) + stream.flush()


def _parse(job: str, data: bytes | None) -> QueuedAttempt | None:
    """Return what RQ keeps of a job's call, if it is an attempt's."""
    if data is None:
        return None
    try:
        function, _, arguments, _ = json.loads(zlib.decompress(data))
        attempt = QueuedAttempt.read(arguments)
    except (ValueError, TypeError, zlib.error):
        return None
    return attempt if calls_trial(function) and attempt.job == job else None
