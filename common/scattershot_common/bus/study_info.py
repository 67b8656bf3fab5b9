"""What workers must know of a study as a whole: the master publishes it, each reads it once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scattershot_common.bus.keys import Keys
from scattershot_common.bus.signing import SECRET_VARIABLE, secret, sign, verify
from scattershot_common.errors import ScattershotError
from scattershot_common.objective import Goal, Objective

if TYPE_CHECKING:
    from redis import Redis

    from scattershot_common.study.recorded_settings import StudySettings


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """A study as its workers see it.

    `uid` tells two studies of one name apart; `folder` is the study's name under a worker's
    output root, `store` the URL of the object store that has its checkpoints instead;
    `kill_grace` and `stall` are seconds; `monitors` is [worker] monitors.
    """

    name: str
    uid: str
    task: str
    metric: str
    goal: Goal
    data: str | None = None
    max_failures: int = 3
    kill_grace: float = 5.0
    recycle: int = 2000
    stall: float = 0.0
    store: str | None = None
    monitors: bool = True

    @property
    def objective(self) -> Objective:
        """The metric that trials are ranked by, and its goal."""
        return Objective(self.metric, self.goal)


def info_of(settings: StudySettings, uid: str, data: str | None) -> StudyInfo:
    """Return what workers must know of a study; `data` is the folder of its data as they see it."""
    return StudyInfo(
        name=settings.name,
        uid=uid,
        task=settings.task,
        metric=settings.objective.metric,
        goal=settings.objective.goal,
        data=data,
        max_failures=settings.worker.max_failures,
        kill_grace=settings.worker.kill_grace,
        recycle=settings.worker.recycle,
        stall=settings.worker.stall,
        store=settings.checkpoints.store,
        monitors=settings.worker.monitors,
    )


def publish(connection: Redis, info: StudyInfo) -> None:
    """Publish the study for the workers.

    Raises:
        ScattershotError: another study of this name is in this Redis.
    """
    key = Keys(info.name).info
    known = connection.hget(key, "uid")
    if known and known != info.uid:
        raise ScattershotError(
            f"another study named {info.name!r} is in this Redis; give yours another name "
            "([study] name) or run it with --fresh"
        )
    text = json.dumps(asdict(info))
    signature = sign(text, secret())
    connection.hset(key, mapping={"uid": info.uid, "info": text, "signature": signature})


def fetch(connection: Redis, study: str) -> StudyInfo:
    """Return what the master published of `study`.

    Raises:
        ScattershotError: it published nothing, its signature does not fit this worker's secret, or
            what it published is not what this version reads.
    """
    text: Any
    text, signature = connection.hmget(Keys(study).info, "info", "signature")
    if text is None:
        raise ScattershotError(f"no study named {study!r} is in this Redis")
    if not verify(text, str(signature or ""), secret()):
        raise ScattershotError(
            f"study {study!r} is not signed with this worker's secret; set the same "
            f"{SECRET_VARIABLE} for the master and all workers"
        )
    try:
        info = StudyInfo(**json.loads(text))
    except (TypeError, ValueError):
        info = None
    if info is None or info.name != study:
        raise ScattershotError(
            f"what the master published of study {study!r} cannot be read here; use the same "
            "version of scattershot for the master and all workers (scattershot doctor tells)"
        )
    return info
