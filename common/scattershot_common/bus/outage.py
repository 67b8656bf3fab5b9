"""The errors of a Redis client that are worth retrying."""

from __future__ import annotations

from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,
)

#: Redis does not answer, still loads its data, or takes no writes for a while. A wrong password is
#: among the connection errors: call `connection.reach` before anything else.
REDIS_OUTAGE = (ConnectionError, TimeoutError, BusyLoadingError, OutOfMemoryError, ReadOnlyError)
