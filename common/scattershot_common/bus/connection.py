"""Redis connections: timeouts, keepalive, retries, and readable errors."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_common.problems import nearest

if TYPE_CHECKING:
    from redis import Redis

#: The environment variable that carries the URL: a password in argv would show in `ps`.
URL_VARIABLE = "SCATTERSHOT_REDIS"


def connect(url: str, *, decode: bool = True, retries: int = 3) -> Redis:
    """Return a client for `url` that retries lost connections with jittered backoff.

    `decode=False` is for RQ, which wants bytes. `retries` of about 120 bridges two minutes of
    outage. Nothing is sent yet; see `reach`.

    Raises:
        StudyFileError: it is no Redis URL, or has an option that the client does not know.
    """
    from redis import Redis
    from redis.backoff import ExponentialWithJitterBackoff
    from redis.exceptions import RedisError
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
        _check_options(url)
        client = Redis.from_url(
            url,
            decode_responses=decode,
            protocol=2,
            socket_timeout=15,
            socket_connect_timeout=5,
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=1.0), retries),
            **options,
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects later, checks its options now
    except (TypeError, ValueError, RedisError):  # the message may quote the password
        raise StudyFileError(
            f"{safe_url(url)!r} is not a Redis URL; write redis://[:password@]host:port, "
            "rediss://… or unix://… (in a password % / ? # @ : as %25 %2F %3F %23 %40 %3A)"
        ) from None
    return client


def _check_options(url: str) -> None:
    """Check what a URL says besides its server; the client ignores some of it, and fails late.

    Raises:
        StudyFileError: a database or an option is wrong; one line that names it.
        ValueError: it is no URL at all.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit

    parts = urlsplit(url)
    path = unquote(parts.path).strip("/")
    if parts.scheme in ("redis", "rediss") and path and not path.isdecimal():
        raise ValueError
    if "@" in parts.query:
        raise ValueError  # the end of a password, which an error must not quote
    known = [*_OPTIONS, *_TLS_OPTIONS]
    for name, value in parse_qsl(parts.query):
        if name not in known:
            problem = f"no option is called {name}{nearest(name, known)} ({', '.join(_OPTIONS)})"
        elif name in _TLS_OPTIONS and parts.scheme != "rediss":
            problem = f"{name} goes with rediss:// only"
        elif _OPTIONS.get(name) and not _is_number(value, _OPTIONS[name]):
            problem = f"{name} must be {_OPTIONS[name]}"
        elif name == "ssl_cert_reqs" and value not in ("none", "optional", "required"):
            problem = f"{name} must be none, optional or required"
        else:
            continue
        raise StudyFileError(f"{safe_url(url)!r} is not a Redis URL: {problem}")


#: Options that a URL may have after "?", and which number they need, if any.
_OPTIONS = {
    "db": "a whole number",
    "username": "",
    "password": "",
    "client_name": "",
    "socket_timeout": "a number above 0",
    "socket_connect_timeout": "a number above 0",
    "socket_keepalive": "",
    "retry_on_timeout": "",
    "health_check_interval": "a whole number",
    "max_connections": "a whole number",
}
_TLS_OPTIONS = (
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
)


def _is_number(text: str, kind: str) -> bool:
    if kind == "a whole number":
        return text.isdecimal() and len(text) < 10
    try:
        return 0 < float(text) < 1e9
    except ValueError:
        return False


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
