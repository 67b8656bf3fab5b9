"""Runs every benchmark in turn and prints one table of the figures."""

from __future__ import annotations

import time

from bench import (
    harness,
    kill_latency,
    looking,
    monitors,
    orchestration,
    overhead,
    reports,
    waiting,
)


def main() -> None:
    """Run all benchmarks; figures are no tests, so missed targets are shown and nothing more."""
    harness.allocate_as_workers_do()
    print(harness.machine())
    begun = time.monotonic()
    figures = []
    for module in (looking, waiting, kill_latency, reports, monitors, orchestration, overhead):
        name = module.__name__.rpartition(".")[2]
        print(f"\n{name}: {(module.__doc__ or '').partition(': ')[2].strip()}", flush=True)
        figures += module.measure()
    print(f"\nall in {time.monotonic() - begun:.0f} s")
    harness.show(figures)


if __name__ == "__main__":
    main()
