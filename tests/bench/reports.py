"""Benchmark `reports`: a thousand workers that report once a second to one master."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from bench import harness
from bench.harness import Figure

WORKERS, PROCESSES = 1000, 4
SECONDS = 40
LATENCY_MS, CPU = 10.0, 0.25
_STUDY = """\
[study]
name = "reports"
task = "bench.tasks:noop"

[space]
lr = {{ loguniform = [1e-6, 1.0] }}

[[stage]]
name = "all"
trials = {workers}
epochs = 100000

[kill]
rule = "none"
"""


def measure() -> list[Figure]:
    """Start a real master on a real Redis (AOF every second), and simulate its workers."""
    from scattershot_common.bus.server import EmbeddedServer

    with harness.folder() as folder:
        server = EmbeddedServer(folder / "redis")
        url = server.start()
        file = folder / "reports.toml"
        file.write_text(_STUDY.format(workers=WORKERS))
        environment = {**harness.environment(), "SCATTERSHOT_REDIS": url}
        master = subprocess.Popen(
            [harness.scattershot(), "master", file, "--out", folder],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        try:
            return _figures(url, folder, psutil.Process(master.pid))
        finally:
            master.kill()
            master.wait()
            server.stop()


def _figures(url: str, folder: Path, master: psutil.Process) -> list[Figure]:
    from scattershot_common.bus.connection import connect

    context = multiprocessing.get_context("spawn")
    share = WORKERS // PROCESSES
    with context.Pool(PROCESSES) as pool:
        asked = [
            pool.apply_async(_simulate, (url, n * share, share, SECONDS)) for n in range(PROCESSES)
        ]
        _wait_for_reports(folder, WORKERS)
        connect(url).config_resetstat()
        begun, used, first = time.monotonic(), _cpu(master), master.memory_info().rss
        before = _reported(folder)
        time.sleep(SECONDS * 0.6)
        cpu = (_cpu(master) - used) / (time.monotonic() - begun)
        reports = _reported(folder) - before
        grown = (master.memory_info().rss - first) / max(reports, 1)
        scripts: Any = connect(url).info("commandstats")
        latencies = [latency for each in asked for latency in each.get()]
    history = len(json.dumps({"epoch": 1, "val_accuracy": 0.5, "val_loss": 1.0}))
    print(f"  {WORKERS} workers, {len(latencies)} reports; median {_ms(latencies, 0.5):.2f} ms")
    print(f"  master: {cpu:.3f} cores at {reports / (SECONDS * 0.6):.0f} reports/s,")
    print(f"  Redis: {scripts['cmdstat_evalsha']['usec_per_call']:.0f} us for a report's script")
    print(f"  {grown:.0f} bytes of memory more per report (a report is {history} bytes of JSON)")
    return [
        harness.at_most("reports: 99th percentile", _ms(latencies, 0.99), LATENCY_MS, " ms"),
        harness.at_most("reports: master's CPU", cpu, CPU, " cores"),
    ]


def _simulate(url: str, first: int, count: int, seconds: int) -> list[float]:
    """Simulate `count` workers that claim a trial each and report every second for `seconds`.

    Returns the latency of every report, in seconds.
    """
    from scattershot_common.bus.connection import connect
    from scattershot_common.bus.trial_state import TrialStates, report
    from scattershot_common.bus.workers import Heartbeat, write_heartbeat

    connection = connect(url)
    states = TrialStates(connection, "reports")

    def pulses() -> None:
        for number in range(first, first + count):
            write_heartbeat(connection, Heartbeat(f"w{number}", "host", 1, "cpu", "0", time.time()))

    pulses()
    waiting = set(range(first, first + count))
    end = time.monotonic() + 60
    while waiting and time.monotonic() < end:
        for number in sorted(waiting):
            if states.claim(number, 1, f"w{number}").granted:
                waiting.discard(number)
        time.sleep(0.05)
    if waiting:
        raise RuntimeError(f"{len(waiting)} trials were never handed out")
    latencies: list[float] = []
    begun, pulsed = time.monotonic(), time.monotonic()
    for epoch in range(1, seconds + 1):
        for k in range(count):
            due = begun + epoch - 1 + k / count
            time.sleep(max(0.0, due - time.monotonic()))
            asked = time.perf_counter()
            states.run([report(first + k, 1, epoch, {"val_accuracy": 0.5, "val_loss": 1.0}, "")])
            latencies.append(time.perf_counter() - asked)
        if time.monotonic() - pulsed > 8:
            pulses()
            pulsed = time.monotonic()
    return latencies


def _wait_for_reports(folder: Path, count: int) -> None:
    end = time.monotonic() + 90
    while _reported(folder) < count:
        if time.monotonic() > end:
            raise RuntimeError("the simulated workers do not report")
        time.sleep(0.2)


def _reported(folder: Path) -> int:
    path = folder / "reports" / "ledger.jsonl"
    return path.read_bytes().count(b'"e":"report"') if path.exists() else 0


def _cpu(process: psutil.Process) -> float:
    times: Any = process.cpu_times()
    return float(times.user + times.system)


def _ms(latencies: list[float], part: float) -> float:
    return 1000 * harness.percentile(latencies, part)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(harness.ROOT / "tests"))
    harness.main(measure)
