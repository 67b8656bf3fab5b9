"""Owns the checks of the workers that are there: how many, on what, of which version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from scattershot_common.bus.workers import Heartbeat
from scattershot_master.doctor.finding import Finding, fail, ok, warn


def check(workers: Sequence[Heartbeat]) -> Iterator[Finding]:
    """Yield what there is to say of the workers."""
    if not workers:
        yield warn(
            "workers",
            "none is here",
            "start some: scattershot worker --redis URL --out FOLDER (`run` starts its own)",
        )
        return
    hosts = len({worker.host for worker in workers})
    devices = Counter(worker.device.partition(":")[0] for worker in workers)
    listed = ", ".join(f"{count} on {device}" for device, count in sorted(devices.items()))
    yield ok("workers", f"{len(workers)} on {hosts} machine{'s' * (hosts > 1)}: {listed}")
    own = version("scattershot")
    others = [f"{one.name} has {one.version}" for one in workers if one.version != own]
    if others:
        yield fail(
            "versions",
            f"here is scattershot {own}, but {', '.join(others)}",
            "install the same version everywhere",
        )
    else:
        yield ok("versions", f"all workers have scattershot {own}")
