"""Owns which kinds of trials the workers train as packs at the moment, so that each finds company.

Nothing here decides over a trial. What a dead worker leaves is overwritten by its next pack, and
forgotten with the study.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scattershot_common.bus.keys import Keys

if TYPE_CHECKING:
    from redis import Redis


def join(connection: Redis, study: str, worker: str, signature: str) -> None:
    """Say that a worker trains a pack of this signature."""
    connection.hset(Keys(study).packs, worker, signature)


def leave(connection: Redis, study: str, worker: str) -> None:
    """Say that it does no more."""
    connection.hdel(Keys(study).packs, worker)


def others(connection: Redis, study: str, worker: str) -> set[str]:
    """Return the signatures of the packs of all other workers."""
    packs: Any = connection.hgetall(Keys(study).packs)
    return {signature for name, signature in packs.items() if name != worker}
