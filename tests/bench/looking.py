"""Benchmark `looking`: the commands that only read a study, as processes, on a long study."""

from __future__ import annotations

from pathlib import Path

from bench import harness
from bench.harness import Figure, Run

RUNS = 7
TRIALS, EPOCHS = 1000, 20
TARGET = 0.3


def measure() -> list[Figure]:
    """Write a ledger of a study nobody trained; print the times, return the medians."""
    with harness.folder() as folder:
        study = _write_study(folder)
        size = (study / "ledger.jsonl").stat().st_size / 2**20
        print(f"  {TRIALS} trials x {EPOCHS} epochs, a ledger of {size:.1f} MiB")
        commands = {name: [harness.scattershot(), name, study] for name in ("status", "top")}
        runs: dict[str, list[Run]] = {name: [] for name in commands}
        for _ in range(RUNS):
            for name, command in commands.items():
                runs[name].append(harness.timed(command))
    figures = []
    for name, some in runs.items():
        walls = [run.wall for run in some]
        cpu = harness.median([run.cpu for run in some])
        print(f"  {name}, s: {harness.spread(walls, 3)}, CPU {cpu:.3f}")
        figures.append(harness.at_most(f"looking: {name}", harness.median(walls), TARGET, " s"))
    return figures


def _write_study(root: Path) -> Path:
    from scattershot_master.state.ledger import Ledger
    from support.synthetic_study import Simulation

    ledger = Ledger(root / "digits")
    stage: dict[str, object] = {"name": "all", "trials": TRIALS, "epochs": EPOCHS}
    Simulation([stage], rule="none").run(to=ledger)
    ledger.close()
    return root / "digits"


if __name__ == "__main__":
    harness.main(measure)
