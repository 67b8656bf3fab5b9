"""Owns which errors of a Redis client only say: wait."""

from __future__ import annotations

from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,
)

#: Redis is away, still loads its data, or takes no orders for a while. A wrong password is among
#: the connection errors: before anything else, see `connection.reach`.
REDIS_OUTAGE = (ConnectionError, TimeoutError, BusyLoadingError, OutOfMemoryError, ReadOnlyError)
