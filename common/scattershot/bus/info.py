"""Owns what workers must know of a study as a whole: written by the master, read once each."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from scattershot.bus.keys import Keys
from scattershot.errors import ScattershotError

if TYPE_CHECKING:
    from redis import Redis


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """A study as its workers see it.

    `uid` tells two studies of one name apart; `folder` is the study's name under a worker's
    output root; `kill_grace` is seconds.
    """

    name: str
    uid: str
    task: str
    metric: str
    goal: Literal["maximize", "minimize"]
    data: str | None = None
    max_failures: int = 3
    kill_grace: float = 5.0
    recycle: int = 2000


def publish(connection: Redis, info: StudyInfo) -> None:
    """Tell the workers of the study.

    Raises:
        ScattershotError: another study of this name lives in this Redis.
    """
    key = Keys(info.name).info
    known = connection.hget(key, "uid")
    if known and known != info.uid:
        raise ScattershotError(
            f"another study named {info.name!r} is in this Redis; give yours another name "
            "([study] name) or run it with --fresh"
        )
    connection.hset(key, mapping={"uid": info.uid, "info": json.dumps(asdict(info))})


def fetch(connection: Redis, study: str) -> StudyInfo:
    """Return what the master published of `study`.

    Raises:
        ScattershotError: it published nothing.
    """
    text = connection.hget(Keys(study).info, "info")
    if text is None:
        raise ScattershotError(f"no study named {study!r} is in this Redis")
    return StudyInfo(**json.loads(text))
