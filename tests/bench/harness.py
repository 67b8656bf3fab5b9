"""Helpers of the benchmarks: timing commands with their processes, figures, tables."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from scattershot_worker.supervisor.child_process import MALLOC

ROOT = Path(__file__).resolve().parents[2]
#: Seconds between two looks at the processes of a command.
_LOOK = 0.5


@dataclass(frozen=True)
class Figure:
    """One measured number beside its target."""

    name: str
    value: float
    unit: str
    target: str
    met: bool
    note: str = ""

    def row(self) -> tuple[str, str, str, str, str]:
        word = "met" if self.met else "MISSED"
        return self.name, f"{self.value:.4g}{self.unit}", self.target, word, self.note


def at_most(name: str, value: float, target: float, unit: str = "", note: str = "") -> Figure:
    return Figure(name, value, unit, f"<= {target:g}{unit}", value <= target, note)


def at_least(name: str, value: float, target: float, unit: str = "", note: str = "") -> Figure:
    return Figure(name, value, unit, f">= {target:g}{unit}", value >= target, note)


@dataclass
class Run:
    """A command that has ended: seconds on the clock, and of CPU time in all its processes.

    `others` is how many of the machine's cores were, on average, busy with something else: from
    about 0.2 on, times on the clock say little. `shares` splits the CPU time by what a process
    is; it is sampled, and misses what a process used after the last look at it.
    """

    begun: float
    wall: float
    cpu: float
    others: float
    out: str
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def busy(self) -> str:
        """What the CPUs did meanwhile, for people."""
        return f"CPU {self.cpu:.1f}, others had {self.others:.2f} cores"

    @property
    def answer(self) -> float:
        """The number on the last line of the output."""
        return float(self.out.splitlines()[-1])


def environment() -> dict[str, str]:
    """Return the environment of every measured command: tests/ importable, for bench.tasks."""
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def timed(command: Sequence[str | Path]) -> Run:
    """Run a command to its end; raises RuntimeError with its output where it fails."""
    begun, start, own, all_ = time.time(), time.perf_counter(), _own_cpu(), _all_cpu()
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )
    with _watched(process.pid) as shares:
        out, _ = process.communicate()
    wall = time.perf_counter() - start
    cpu = _own_cpu() - own
    others = max(0.0, _all_cpu() - all_ - cpu) / wall
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{out}")
    return Run(begun, wall, cpu, others, out, dict(shares))


def _own_cpu() -> float:
    """Return the CPU seconds of this process, and of all that it started and that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def _all_cpu() -> float:
    """Return the CPU seconds used on this machine, by a hypervisor's other guests too."""
    times = psutil.cpu_times()
    return float(
        sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    )


@contextmanager
def _watched(pid: int) -> Iterator[dict[str, float]]:
    """Yield CPU seconds by kind of process, filled in while the processes run."""
    shares: dict[str, float] = {}
    used: dict[int, tuple[str, float]] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(_LOOK):
            with suppress(psutil.Error):
                top = psutil.Process(pid)
                for process in [top, *top.children(recursive=True)]:
                    with suppress(psutil.Error):
                        times = process.cpu_times()
                        used[process.pid] = _kind(process.cmdline()), times.user + times.system

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield shares
    finally:
        done.set()
        thread.join()
        for kind, seconds in used.values():
            shares[kind] = shares.get(kind, 0.0) + seconds


def _kind(command: Sequence[str]) -> str:
    line = " ".join(command)
    for mark, kind in (
        ("scattershot_worker.child.main", "training"),
        ("scattershot_worker.evaluate", "ensemble test"),
        ("--slot ", "supervisors"),
        ("rq:worker", "supervisors"),
        ("scattershot_worker", "slot keeper"),
        ("redis", "redis"),
        ("bin/scattershot", "master"),
    ):
        if mark in line:
            return kind
    return "other"


def scattershot() -> Path:
    """Return the command as it is installed beside this Python."""
    return Path(sys.executable).with_name("scattershot")


@dataclass(frozen=True)
class Study:
    """A study that was run to its end: what was measured, and its ledger."""

    run: Run
    folder: Path
    events: list[dict[str, Any]]

    def clock(self, *kinds: str) -> list[float]:
        """Return when events of these kinds happened, by Redis' clock: seconds since 1970."""
        ids = [event["c"] for event in self.events if event["e"] in kinds]
        return [int(event_id.partition("-")[0]) / 1000 for event_id in ids]

    def at(self, kind: str) -> float:
        """Return when the last event of a kind was written, by the master's clock."""
        return float(max(event["at"] for event in self.events if event["e"] == kind))

    @property
    def span(self) -> tuple[float, float]:
        """The first start of a trial and the last end of one."""
        return min(self.clock("started")), max(self.clock("complete", "killed", "failed"))


def run_command(file: Path, out: Path) -> list[str | Path]:
    """Return the command that runs a study file with two workers, its results under `out`."""
    options = ["--workers", "2", "--device", "cpu", "--out"]
    return [scattershot(), "run", file, *options, out]


def run_study(text: str, out: Path) -> Study:
    """Run the study whose file is `text` under `out` with the real command."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "study.toml"
    file.write_text(text)
    run = timed(run_command(file, out))
    (ledger,) = out.glob("*/ledger.jsonl")
    events = [json.loads(line) for line in ledger.read_text().splitlines()]
    return Study(run, ledger.parent, events)


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="scattershot-bench-") as name:
        yield Path(name)


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest value that `part` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median and, in brackets, the extremes.

    >>> spread([3.0, 1.0, 2.0], 1)
    '2.0 (1.0-3.0)'
    """
    low, high = min(values), max(values)
    return f"{median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def show(figures: Sequence[Figure]) -> None:
    """Print figures as one table."""
    print(table([("figure", "seen", "target", "", ""), *(figure.row() for figure in figures)]))


def machine() -> str:
    """Return what the figures were taken on, and how busy it is with other things."""
    memory = psutil.virtual_memory().total / 2**30
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, load {load:.1f} before the start"


def allocate_as_workers_do() -> None:
    """Start this process anew with a worker's settings for malloc, unless it has them."""
    if not MALLOC.keys() <= os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, {**MALLOC, **os.environ})


def main(measure: Callable[[], list[Figure]]) -> None:
    """Run one benchmark by itself."""
    allocate_as_workers_do()
    print(machine(), flush=True)
    show(measure())
