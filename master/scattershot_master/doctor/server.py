"""Probes of a Redis: that it answers, keeps its data, and has memory, connections and speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scattershot_common.bus.connection import reach, safe_url
from scattershot_common.bus.workers import redis_time
from scattershot_common.errors import ScattershotError
from scattershot_master.doctor.probe_result import ProbeResult, fail, ok, warn

if TYPE_CHECKING:
    from redis import Redis

_LEAST_VERSION = (6, 2)
#: Seconds by which this machine's clock may differ.
_CLOCK = 2.0
#: A slower answer than this (seconds) slows short trials down.
_SLOW = 0.05
_PINGS = 20
#: Connections that a worker holds: supervisor (RQ, states, pub/sub) and child.
_PER_WORKER = 4


def check(connection: Redis, url: str) -> Iterator[ProbeResult]:
    """Yield the results of all probes of a Redis; one only where it cannot be reached."""
    from redis.exceptions import RedisError

    try:
        reach(connection, url)
    except ScattershotError as error:
        observation, _, remedy = str(error).rpartition("; ")
        yield fail("redis", observation or str(error), remedy)
        return
    try:
        info: dict[str, Any] = connection.info()
    except RedisError as error:
        yield fail("redis", f"INFO is refused: {error}", "allow it: docs/security.md has a list")
        return
    yield server(info, url)
    yield persistence(info)
    yield memory(info)
    yield clients(info, connection)
    yield from latency(connection)


def server(info: dict[str, Any], url: str) -> ProbeResult:
    """Return which server it is, and whether it can be written to."""
    version = str(info.get("redis_version", "0"))
    name = f"{info.get('server_name', 'redis')} {info.get('valkey_version', version)}"
    observation = f"{name} at {safe_url(url)}"
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _LEAST_VERSION:
        return fail("redis", observation, "use Redis 6.2 or newer, or Valkey")
    if info.get("role") == "slave":
        return fail("redis", f"{observation}: a replica", "name the primary's address")
    if info.get("cluster_enabled"):
        return fail(
            "redis", f"{observation}: in cluster mode", "use a Redis that is not in cluster mode"
        )
    return ok("redis", observation)


def persistence(info: dict[str, Any]) -> ProbeResult:
    """Return whether its data survives its restart."""
    subject = "persistence"
    errors = [
        name
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if info.get(name, "ok") != "ok"
    ]
    if errors:
        observation = f"its last write to the disk went wrong ({', '.join(errors)})"
        return fail(subject, observation, "look at its log and its disk; it may refuse all writes")
    if info.get("aof_enabled"):
        return ok(subject, "AOF is on")
    return warn(
        subject,
        "AOF is off: a restart loses the queue, and the master must build it anew",
        "appendonly yes in redis.conf, or CONFIG SET appendonly yes",
    )


def memory(info: dict[str, Any]) -> ProbeResult:
    """Return whether it may evict data."""
    subject, limit = "memory", int(info.get("maxmemory", 0))
    policy, used = str(info.get("maxmemory_policy", "?")), int(info.get("used_memory", 0))
    observation = f"{_size(used)} used of {_size(limit) if limit else 'what the machine has'}"
    if policy != "noeviction":
        observation += f", maxmemory-policy {policy}"
        remedy = "CONFIG SET maxmemory-policy noeviction"
        if limit:
            return fail(subject, f"{observation}: when full it throws trials away", remedy)
        return warn(subject, f"{observation}: with a maxmemory it would throw trials away", remedy)
    if limit and used > 0.8 * limit:
        return warn(subject, observation, "raise maxmemory: a full Redis takes no orders")
    return ok(subject, observation)


def clients(info: dict[str, Any], connection: Redis) -> ProbeResult:
    """Return how many workers can connect."""
    from redis.exceptions import RedisError

    connected, limit = int(info.get("connected_clients", 0)), info.get("maxclients")
    if limit is None:  # before Redis 7
        try:
            config: Any = connection.config_get("maxclients")
            limit = config["maxclients"]
        except (RedisError, LookupError):
            return ok("clients", f"{connected} connected")
    room = max(int(limit) - connected, 0) // _PER_WORKER
    observation = f"{connected} connected of {limit}: room for about {room} workers more"
    if room < 50:
        return warn(
            "clients", observation, "raise maxclients (and the open files limit of the server)"
        )
    return ok("clients", observation)


def latency(connection: Redis) -> Iterator[ProbeResult]:
    """Yield how long an answer takes, and how far its clock is off this machine's."""
    trips, offsets = [], []
    for _ in range(_PINGS):
        start, wall = time.perf_counter(), time.time()
        server_time = redis_time(connection)
        trips.append(time.perf_counter() - start)
        offsets.append(server_time - (wall + trips[-1] / 2))
    median = statistics.median(trips)
    observation = f"{median * 1000:.1f} ms there and back (median of {_PINGS})"
    if median > _SLOW:
        yield warn(
            "latency", observation, "bring Redis nearer: each epoch waits for its report's answer"
        )
    else:
        yield ok("latency", observation)
    offset = offsets[trips.index(min(trips))]
    observation = f"{abs(offset):.2f} s {'behind' if offset > 0 else 'ahead of'} that of Redis"
    if abs(offset) > _CLOCK:
        yield warn(
            "clock",
            f"this machine's is {observation}",
            "run an NTP client on both; leases go by Redis' clock alone, times shown do not",
        )
    else:
        yield ok("clock", f"this machine's is {observation}")


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
