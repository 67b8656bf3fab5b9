"""Redis connections for tests of the bus: to fakeredis, or to a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from scattershot_common.bus.connection import connect

if TYPE_CHECKING:
    from redis import Redis


class ConnectRedis(Protocol):
    """Opens a connection, as `scattershot_common.bus.connection.connect` does."""

    def __call__(self, *, decode: bool = True) -> Redis:
        """Return a connection; `decode=False` is for RQ, which wants bytes."""


def fake() -> ConnectRedis:
    """Return how to connect to a new, empty fakeredis."""
    from fakeredis import FakeRedis, FakeServer

    server = FakeServer(version=(7,))

    def open_connection(*, decode: bool = True) -> Redis:
        return cast("Redis", FakeRedis(server=server, decode_responses=decode, protocol=2))

    return open_connection


def real(url: str) -> ConnectRedis:
    """Return how to connect to the server at `url`."""

    def open_connection(*, decode: bool = True) -> Redis:
        return connect(url, decode=decode)

    return open_connection
