"""The chaos run: a study under faults must end as the same study does undisturbed.

    python -m chaos.chaos --seed 1          # `make chaos`: over 60 faults, about eight minutes

Two runs with one seed strike with the same faults in the same order at about the same progress;
what they strike, and when exactly, depends on the machine's timing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from chaos.cluster import Cluster
from chaos.faults import FAULTS, FEW, Fault, deck
from cluster.conftest import command, environment, table
from scattershot_common.machine import die_with_parent

STUDY = """\
[study]
name = "chaos"
task = "slow_digits:SlowDigits"
seed = {seed}

[space]
lr = {{ loguniform = [1e-3, 1.0] }}
optimizer = {{ choice = ["sgd", "adamw"] }}
momentum = {{ uniform = [0.5, 0.99], when = {{ optimizer = "sgd" }} }}
dropout = {{ uniform = [0.0, 0.5] }}
hidden = {{ choice = [16, 32] }}
batch_size = 64

[[stage]]
name = "coarse"
trials = {coarse}
epochs = {epochs}

[[stage]]
name = "fine"
refine = 0.5
trials = {fine}
epochs = {epochs}

[[stage]]
name = "final"
continue = {final}
epochs = {last}
kill = "none"

[kill]
rule = "sync_halving"
grace = {grace}

[ensemble]
size = 4

[worker]
max_failures = 1000
"""


@dataclass(frozen=True)
class Size:
    """How much is trained, with how many workers, and which faults it meets."""

    coarse: int
    fine: int
    final: int
    epochs: int
    last: int
    grace: int
    faults: dict[Fault, int]
    #: How many of the faults must find something to strike.
    least: int
    #: Seconds an epoch takes longer than it must.
    pause: float = 0.35
    workers: int = 3
    #: Seconds without a report after which the run counts as stuck.
    patience: float = 180.0

    def study(self, seed: int) -> str:
        """Return the study file."""
        return STUDY.format(seed=seed, **{k: v for k, v in vars(self).items() if k != "faults"})


LONG = Size(coarse=36, fine=18, final=3, epochs=12, last=30, grace=2, faults=FAULTS, least=60)
SHORT = Size(
    coarse=6, fine=3, final=2, epochs=4, last=8, grace=1, faults=FEW, least=sum(FEW.values()) - 2
)


@dataclass
class Outcome:
    """What a chaos run found; it is as it must be when `wrong` is empty."""

    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    epochs: int = 0
    trained: int = 0
    attempts: int = 0
    trials: int = 0
    undisturbed_s: float = 0.0
    disturbed_s: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{sum(self.faults.values())} faults injected:",
            *(f"  {count:3d}  {name}" for name, count in sorted(self.faults.items())),
            f"{self.epochs} epochs of {self.trials} trials in {self.attempts} attempts; "
            f"{self.trained - self.epochs} epochs trained twice",
            f"{self.disturbed_s:.0f} s, undisturbed {self.undisturbed_s:.0f} s: "
            f"{self.disturbed_s - self.undisturbed_s:.0f} s lost",
        ]
        return "\n".join([*lines, *(f"WRONG: {problem}" for problem in self.wrong)])


def run(folder: Path, size: Size, seed: int) -> Outcome:
    """Run the study undisturbed and under faults, both below `folder`, and compare."""
    outcome = Outcome()
    code = Path(__file__).parent
    file = folder / "chaos.toml"
    file.write_text(size.study(seed))
    shutil.copy(code / "slow_digits.py", folder)  # beside the study file, where users keep theirs

    began = time.monotonic()
    expected = undisturbed(folder / "undisturbed", file, size)
    outcome.undisturbed_s = time.monotonic() - began
    total = sum(len(trial["history"]) for trial in expected["trials"])
    say(f"undisturbed: {total} epochs in {outcome.undisturbed_s:.0f} s")

    (folder / "chaos").mkdir()
    began = time.monotonic()
    cluster = Cluster(
        folder / "chaos", file, "chaos", workers=size.workers, env={"CHAOS_PAUSE": str(size.pause)}
    )
    try:
        strike(cluster, size, Random(seed), total, outcome)
        outcome.disturbed_s = time.monotonic() - began
        if not outcome.wrong:
            cluster.stop()
            outcome.wrong += [f"a process is left: {line}" for line in cluster.left()]
    finally:
        cluster.close()
    for service in cluster.services:
        outcome.wrong += service.surprises
    for log in sorted((folder / "chaos" / "logs").iterdir()):
        if "Traceback" in log.read_text(errors="replace"):
            outcome.wrong.append(f"a traceback in {log}")
    compare(expected, cluster, outcome)
    return outcome


def undisturbed(folder: Path, file: Path, size: Size) -> dict[str, Any]:
    """Return the export of the study as one command runs it."""
    folder.mkdir()
    env = {**environment(), "CHAOS_PAUSE": str(size.pause)}
    argv = command("run", file, "--workers", str(size.workers), "--out", folder, "--device", "cpu")
    subprocess.run(
        argv, env=env, check=True, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent()
    )
    return export(folder / "chaos")


def export(folder: Path) -> dict[str, Any]:
    """Return a study as `export --json` prints it."""
    argv = command("export", folder, "--json")
    done = subprocess.run(argv, env=environment(), check=True, capture_output=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def strike(cluster: Cluster, size: Size, rng: Random, total: int, outcome: Outcome) -> None:
    """Strike with the faults, evenly over the `total` epochs, until the master has ended."""
    faults = deck(size.faults, rng)
    every = 0.9 * total / len(faults)
    due = every
    seen, moved = -1, time.monotonic()
    struck = time.monotonic()
    while not cluster.master.done:
        cluster.tend()
        done = len(cluster.reports())
        if done != seen:
            seen, moved = done, time.monotonic()
        if time.monotonic() - moved > size.patience:
            outcome.wrong.append(f"no report for {size.patience:.0f} s, at {done} of {total}")
            return
        if faults and done >= due:
            fault = faults.pop(0)
            if words := fault(cluster, rng):
                outcome.faults[fault.__name__] += 1
                say(f"{done:4d}/{total}  {fault.__name__}: {words}")
                due += every
                struck = time.monotonic()
            else:
                # its turn comes when there is something to strike
                faults.insert(min(1 + int(time.monotonic() - struck), len(faults)), fault)
        time.sleep(0.05)
    cluster.settle()
    if sum(outcome.faults.values()) < size.least:
        outcome.wrong.append(f"{len(faults)} faults found nothing to strike")


def compare(expected: dict[str, Any], cluster: Cluster, outcome: Outcome) -> None:
    """Note all that differs from the undisturbed study."""
    reports = cluster.reports()
    outcome.epochs = len(reports)
    if cluster.epochs_trained.exists():
        outcome.trained = cluster.epochs_trained.stat().st_size
    for report, count in Counter(reports).items():
        if count > 1:
            trial, epoch = report
            outcome.wrong.append(f"trial {trial}, epoch {epoch} stands {count} times in the ledger")
    if outcome.wrong and not cluster.master.done:
        return
    found = export(cluster.folder)
    outcome.trials = len(found["trials"])
    outcome.attempts = sum(trial["attempts"] for trial in found["trials"])
    for trial in found["trials"]:
        if [line["epoch"] for line in trial["history"]] != list(range(1, trial["epochs"] + 1)):
            outcome.wrong.append(f"trial {trial['trial']} has gaps in its history")
    then, now = table(expected), table(found)
    for expected_trial, found_trial in zip(then, now, strict=False):
        if expected_trial != found_trial:
            outcome.wrong.append(
                f"trial {expected_trial['trial']} differs; undisturbed:\n"
                f"{_lines(expected_trial)}\nnow:\n{_lines(found_trial)}"
            )
            break
    if len(then) != len(now):
        outcome.wrong.append(f"{len(now)} trials instead of {len(then)}")
    if outcome.trained - outcome.epochs > outcome.attempts:
        outcome.wrong.append("more epochs were trained twice than one for each attempt")
    for key in ("stages", "warnings", "ensemble"):
        if expected[key] != found[key]:
            outcome.wrong.append(f"another {key}; undisturbed: {expected[key]}\nnow: {found[key]}")


def _lines(trial: dict[str, Any]) -> str:
    about = {key: value for key, value in trial.items() if key != "history"}
    return "\n".join([f"  {about}", *(f"  {line}" for line in trial["history"])])


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> None:
    """Run the long form; the folders stay where something went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    seed = parser.parse_args().seed
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    say(f"seed {seed}, in {folder}")
    outcome = run(folder, LONG, seed)
    print(outcome)
    if outcome.wrong:
        print(f"seed {seed}; all is kept in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)
    print("the end is the same")


if __name__ == "__main__":
    main()
