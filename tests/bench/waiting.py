"""Benchmark `waiting`: a master that starts on a study of 100,000 waiting trials."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from bench import harness
from bench.harness import Figure

TRIALS = 100_000
SECONDS, MEGABYTES = 5.0, 400.0
RUNS = 3


def measure() -> list[Figure]:
    """Start the real command on a Redis that knows nothing; it ends when all are on the queue."""
    from scattershot_common.bus.server import EmbeddedServer

    seen = []
    for _ in range(RUNS):
        with harness.folder() as folder:
            file = _write_study(folder)
            server = EmbeddedServer(folder / "redis")
            url = server.start()
            try:
                seen.append(_start(file, url, folder))
            finally:
                server.stop()
    times, cpu, sizes = zip(*seen, strict=True)
    print(
        f"  {TRIALS} trials, s: {harness.spread(times)}; CPU of master and Redis, s: "
        f"{harness.spread(cpu)}; MB: {harness.spread(sizes, 0)}"
    )
    return [
        harness.at_most("waiting: all on the queue", harness.median(times), SECONDS, " s"),
        harness.at_most("waiting: master's memory", max(sizes), MEGABYTES, " MB"),
    ]


def _start(file: Path, url: str, folder: Path) -> tuple[float, float, float]:
    """Return the seconds until all trials are on the queue, on the clock and of CPU, and the MB."""
    from scattershot_common.bus.connection import connect
    from scattershot_common.bus.queue import TrialQueue

    key, redis = TrialQueue(connect(url, decode=False)).rq.key, connect(url)
    begun = time.perf_counter()
    master = subprocess.Popen(
        [harness.scattershot(), "master", file, "--out", folder],
        env={**harness.environment(), "SCATTERSHOT_REDIS": url},
        stdout=subprocess.DEVNULL,
    )
    try:
        process, largest = psutil.Process(master.pid), 0
        while redis.llen(key) < TRIALS:
            if time.perf_counter() - begun > 120:
                raise RuntimeError("the trials never came to the queue")
            largest = max(largest, process.memory_info().rss)
            time.sleep(0.02)
        seconds = time.perf_counter() - begun
        times: Any = process.cpu_times()
        server: Any = redis.info("cpu")
        cpu = times.user + times.system + server["used_cpu_user"] + server["used_cpu_sys"]
        for _ in range(100):  # what it needs a moment later counts as well
            largest = max(largest, process.memory_info().rss)
            time.sleep(0.02)
        return seconds, cpu, largest / 1e6
    finally:
        master.kill()
        master.wait()


def _write_study(folder: Path) -> Path:
    """Write a study file, and a ledger in which all its trials are sampled; return the file."""
    from scattershot_common.study.study_file import load
    from scattershot_master.search import planning
    from scattershot_master.search.open_study import open_study

    text = (harness.ROOT / "examples" / "digits.toml").read_text()
    head = text.partition("[[stage]]")[0]
    file = folder / "digits.toml"
    file.write_text(f'{head}\n[[stage]]\nname = "all"\ntrials = {TRIALS}\nepochs = 20\n')
    _, ledger = open_study(load(file), file.read_text(), folder, fresh=False)
    opening = planning.next_stage(ledger.state, [])
    assert opening is not None
    ledger.append(opening)
    for point in planning.next_points(ledger.state, [], TRIALS):
        ledger.append(point)
    ledger.close()
    return file


if __name__ == "__main__":
    harness.main(measure)
