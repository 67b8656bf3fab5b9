"""Owns the way out: trials as RQ jobs, one job per attempt."""

from __future__ import annotations

import contextlib
import json
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scattershot_common.bus import lua_scripts
from scattershot_common.bus.keys import QUEUE, job_id
from scattershot_common.bus.signing import secret, sign
from scattershot_common.store.checkpoint_names import is_study_name
from scattershot_common.trial import Trial, Value

if TYPE_CHECKING:
    from redis import Redis

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
#: What a job asks for, and all that a worker does. A name, never imported by it.
RUN_TRIAL = "scattershot.run_trial"


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """All a worker must know of a trial besides its study: what the RQ job carries."""

    study: str
    uid: str
    trial: int
    stage: str
    params: Mapping[str, Value]
    seed: int
    epochs: int

    @classmethod
    def of(cls, study: str, uid: str, trial: Trial) -> TrialSpec:
        """Return the spec of `trial` in the study called `study`, known by `uid`."""
        return cls(study, uid, trial.number, trial.stage, trial.params, trial.seed, trial.epochs)

    def to_json(self) -> str:
        """Return the spec as the job's argument."""
        return _ENCODE(
            [
                self.study,
                self.uid,
                self.trial,
                self.stage,
                dict(self.params),
                self.seed,
                self.epochs,
            ]
        )

    @classmethod
    def from_json(cls, text: str) -> TrialSpec:
        """Read a job's argument; raises ValueError for anything that is not a spec."""
        try:
            study, uid, trial, stage, params, seed, epochs = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a trial: {error}") from None
        texts, numbers = (study, uid, stage), (trial, seed, epochs)
        if not (
            all(type(one) is str for one in texts)
            and all(type(one) is int for one in numbers)
            and isinstance(params, dict)
        ):
            raise ValueError("not a trial: wrong types")
        if not is_study_name(study):  # it becomes a folder
            raise ValueError(f"not a trial: refused {study[:80]!r} as the name of a study")
        if not 0 <= trial < 10**18:
            raise ValueError(f"not a trial: refused {str(trial)[:80]} as its number")
        return cls(study, uid, trial, stage, params, seed, epochs)


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
        from rq.job import Job, JobStatus

        arguments: list[str | bytes] = []
        key = secret()
        for spec, attempt in attempts:
            one = job_id(spec.study, spec.trial, attempt)
            call = _ENCODE((RUN_TRIAL, None, _signed(spec, attempt, key), {})).encode()
            arguments += [Job.key_for(one), one, _packed(call)]
        if not arguments:
            return
        model = self.rq.create_job(RUN_TRIAL, status=JobStatus.QUEUED, **BOOKS)
        model.enqueued_at = model.created_at
        fields = {name: value for name, value in model.to_dict().items() if value != ""}
        del fields["data"]
        shared = [one for pair in fields.items() for one in pair]
        keys = [self.rq.key, self.rq.redis_queues_keys]
        lua_scripts.run(self._connection, "enqueue", keys, [json.dumps(shared), *arguments])

    def put_front(self, spec: TrialSpec, attempt: int) -> None:
        """Enqueue a further attempt before everything that waits; once, if asked twice."""
        from rq.exceptions import DuplicateJobError

        with contextlib.suppress(DuplicateJobError):
            self.rq.enqueue(
                RUN_TRIAL,
                args=_signed(spec, attempt, secret()),
                job_id=job_id(spec.study, spec.trial, attempt),
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

    def remove(self, ids: Iterable[str]) -> None:
        """Take jobs off the queue and forget them."""
        from rq.job import Job

        pipe = self._connection.pipeline(transaction=False)
        for one in ids:
            pipe.lrem(self.rq.key, 0, one)
            pipe.delete(Job.key_for(one))
        pipe.execute()


#: RQ's own timeout is off (a trial may take days; leases watch it), and a finished job leaves
#: nothing in Redis: its result stands in the stream and the checkpoint.
BOOKS: dict[str, Any] = {
    "timeout": -1,
    "result_ttl": 0,
    "failure_ttl": 3600,
    "description": "trial",
}


def _signed(spec: TrialSpec, attempt: int, key: str) -> tuple[str, int, str]:
    # the signature leaves the attempt out, so that a worker may give a trial back unsigned by it:
    # which attempt is due is settled by the trial's state
    text = spec.to_json()
    return text, attempt, sign(text, key)


def _packed(call: bytes) -> bytes:
    # as RQ reads it; without compressing anything, which took longer than all the rest
    stream = zlib.compressobj(0, zlib.DEFLATED, 9, 1)
    return stream.compress(call) + stream.flush()
