"""Probes of the workers that are connected: how many, on which devices, of which version."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from scattershot_common.bus.workers import Heartbeat
from scattershot_master.doctor.probe_result import ProbeResult, fail, ok, warn


def check(workers: Sequence[Heartbeat]) -> Iterator[ProbeResult]:
    """Yield the results of all probes of the workers."""
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
    others = [f"{worker.name} has {worker.version}" for worker in workers if worker.version != own]
    if others:
        yield fail(
            "versions",
            f"here is scattershot {own}, but {', '.join(others)}",
            "install the same version everywhere",
        )
    else:
        yield ok("versions", f"all workers have scattershot {own}")
