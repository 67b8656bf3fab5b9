"""Benchmark `kill latency`: from the decision to the trial's end, within an epoch."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import harness
from bench.harness import Figure
from scattershot_common.bus.outcome import StopReason

if TYPE_CHECKING:
    from scattershot_common.bus.trial_state import TrialStates

KILLS = 30
TARGET = 50.0
_STUDY = """\
[study]
name = "kills"
task = "bench.tasks:long_epochs"

[space]
x = {{ uniform = [0.0, 1.0] }}

[[stage]]
name = "all"
trials = {trials}
epochs = 3

[kill]
rule = "{rule}"
patience = 1
"""


def measure() -> list[Figure]:
    """Let a rule kill trials, then kill some by hand; both stand in the midst of an epoch."""
    with harness.folder() as folder:
        by_rule = _by_rule(folder / "rule")
        by_hand, next_start = _by_hand(folder / "hand")
    for name, values in (
        ("rule's verdict to the trial's end", by_rule),
        ("kill by hand to the trial's end", by_hand),
        ("killed to the worker's next start", next_start),
    ):
        p90 = harness.percentile(values, 0.9)
        print(f"  {name}, ms: {harness.spread(values, 1)}, p90 {p90:.1f}, of {len(values)}")
    return [
        harness.at_most("kill latency: by a rule", harness.median(by_rule), TARGET, " ms"),
        harness.at_most("kill latency: by hand", harness.median(by_hand), TARGET, " ms"),
    ]


def _by_rule(folder: Path) -> list[float]:
    """Return milliseconds from the master's verdict (its clock) to the end (Redis' clock)."""
    study = harness.run_study(_STUDY.format(trials=KILLS, rule="patience"), folder)
    decided = {event["t"]: event["at"] for event in study.events if event["e"] == "kill"}
    ended = {event["t"]: event["c"] for event in study.events if event["e"] == "killed"}
    if len(ended) != KILLS:
        raise RuntimeError(f"of {KILLS} trials {len(ended)} were killed")
    return [1000 * (_seconds(ended[trial]) - decided[trial]) for trial in ended]


def _by_hand(folder: Path) -> tuple[list[float], list[float]]:
    """Return milliseconds from our call to the end, and from there to the next trial's start."""
    from scattershot_common.bus.connection import connect
    from scattershot_common.bus.server import running_url
    from scattershot_common.bus.trial_state import TrialStates

    folder.mkdir()
    file = folder / "study.toml"
    file.write_text(_STUDY.format(trials=KILLS + 2, rule="none"))
    with subprocess.Popen(
        harness.run_command(file, folder), env=harness.environment(), stdout=subprocess.DEVNULL
    ) as process:
        try:
            while (url := running_url(folder / "kills" / "redis")) is None:
                if process.poll() is not None:
                    raise RuntimeError("the study ended before it began")
                time.sleep(0.1)
            return _kill_one_by_one(TrialStates(connect(url), "kills"))
        finally:
            process.terminate()


def _kill_one_by_one(states: TrialStates) -> tuple[list[float], list[float]]:
    from scattershot_common.bus.stream import EventStream
    from scattershot_master.search.redis_study import stop_trial

    stream = EventStream(states.connection, "kills")
    pause = random.Random(0)
    cursor = ""
    asked: dict[int, float] = {}
    ended: dict[str, float] = {}
    to_end: list[float] = []
    to_start: list[float] = []
    worker: dict[int, str] = {}

    def kill(trial: int) -> None:
        asked[trial] = time.time()
        stop_trial(states, trial, StopReason.KILL, "bench")

    while len(to_end) < KILLS:
        for event in stream.read(cursor, block_ms=1000):
            cursor = event.id
            if event.kind == "started":
                worker[event.trial] = event.worker
                if event.worker in ended:
                    to_start.append(1000 * (_seconds(event.id) - ended.pop(event.worker)))
            elif event.kind == "report" and event.epoch == 2:
                # its third epoch lasts for minutes: any moment from now on is in the midst of it
                threading.Timer(pause.uniform(0.2, 0.6), kill, [event.trial]).start()
            elif event.kind == "killed":
                ended[worker[event.trial]] = _seconds(event.id)
                to_end.append(1000 * (_seconds(event.id) - asked[event.trial]))
    return to_end, to_start


def _seconds(stream_id: str) -> float:
    return int(stream_id.partition("-")[0]) / 1000


if __name__ == "__main__":
    harness.main(measure)
