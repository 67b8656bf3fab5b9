"""Redis connections: timeouts, keepalive, retries, and readable errors."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scattershot_common.errors import ScattershotError

if TYPE_CHECKING:
    from redis import Redis

#: The environment variable that carries the URL: a password in argv would show in `ps`.
URL_VARIABLE = "SCATTERSHOT_REDIS"


def connect(url: str, *, decode: bool = True, retries: int = 3) -> Redis:
    """Return a client for `url` that retries lost connections with jittered backoff.

    `decode=False` is for RQ, which wants bytes. `retries` of about 120 bridges two minutes of
    outage. Nothing is sent yet; see `reach`.
    """
    from redis import Redis
    from redis.backoff import ExponentialWithJitterBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {}
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
        keepalive = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
        # A peer that vanished without closing is given up after 20 s, not the kernel's 15 min.
        keepalive["TCP_USER_TIMEOUT"] = 20_000
        options["socket_keepalive_options"] = {
            getattr(socket, name): value
            for name, value in keepalive.items()
            if hasattr(socket, name)
        }
    try:
        return Redis.from_url(
            url,
            decode_responses=decode,
            protocol=2,
            socket_timeout=15,
            socket_connect_timeout=5,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries),
            **options,
        )
    except ValueError:  # its message may quote the password
        raise ScattershotError(
            f"{safe_url(url)!r} is not a Redis URL; write redis://[:password@]host:port, "
            "rediss://… or unix://… (in a password % / ? # @ : as %25 %2F %3F %23 %40 %3A)"
        ) from None


class _NoAnswer(ScattershotError):
    """No server answers at the address: perhaps not yet."""


def reach(
    connection: Redis,
    url: str,
    *,
    wait_s: float = 0.0,
    note: Callable[[str], object] = lambda text: None,
) -> None:
    """Ping the server until it answers, for at most `wait_s` seconds; tell `note` of each try.

    A server that refuses the connection is not tried again.

    Raises:
        ScattershotError: one line that says what to do; the password is left out of it.
    """
    end = time.monotonic() + wait_s
    while True:
        try:
            return _ping(connection, url)
        except _NoAnswer as error:
            if time.monotonic() > end:
                raise
            note(f"{error}; trying again")
        time.sleep(1)


def _ping(connection: Redis, url: str) -> None:
    from redis.exceptions import AuthenticationError, RedisError, ResponseError

    try:
        connection.ping()
    except AuthenticationError as error:
        raise ScattershotError(
            f"Redis at {safe_url(url)} refused the password ({error}); "
            f"set it in the URL: redis://:PASSWORD@host:port or in {URL_VARIABLE}"
        ) from None
    except ResponseError as error:
        raise ScattershotError(
            f"Redis at {safe_url(url)} refused the connection: {error}"
        ) from None
    except (RedisError, OSError) as error:
        reason = str(error).split(". ")[0]
        raise _NoAnswer(
            f"no Redis answers at {safe_url(url)} ({reason}); start one, or check the address"
        ) from None


def safe_url(url: str) -> str:
    """Return `url`, which need not be a valid one, without its password.

    >>> safe_url("redis://:secret@10.0.0.1:6379/0")
    'redis://10.0.0.1:6379/0'
    >>> safe_url("redis://:se/cr#et@10.0.0.1:6379/0?password=secret")
    'redis://10.0.0.1:6379/0'
    """
    return re.sub(r"^(\w*://)?.*@", r"\1", re.sub(r"\?\w+=.*", "", url))


def url_from(flag: str | None) -> str | None:
    """Return the Redis URL of a command: its flag, else the environment's, else None."""
    return flag or os.environ.get(URL_VARIABLE) or None
