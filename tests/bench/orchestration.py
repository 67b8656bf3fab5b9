"""Benchmark `orchestration`: trials per second where the trials themselves cost nothing."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

from bench import harness
from bench.harness import Figure, Study

ROUNDS = 3
FEW, MANY = 500, 5000
_STUDY = """\
[study]
name = "orchestration"
task = "bench.tasks:noop"

[space]
x = {{ uniform = [0.0, 1.0] }}

[[stage]]
name = "all"
trials = {trials}
epochs = 10
"""


def measure() -> list[Figure]:
    """Run studies of no-op trials and Optuna in turn; print the rates, return the figures."""
    few: list[float] = []
    optuna: list[float] = []
    with harness.folder() as folder:
        for number in range(ROUNDS):
            study = harness.run_study(_STUDY.format(trials=FEW), folder / f"few-{number}")
            few.append(_rate(study))
            optuna.append(_optuna(folder / f"optuna-{number}"))
            print(f"round {number + 1}: {_about(study)}; Optuna {optuna[-1]:.0f}/s", flush=True)
        study = harness.run_study(_STUDY.format(trials=MANY), folder / "many")
        many = _rate(study)
        print(_about(study))
        tenths = _rates_of_tenths(study)
        print("  by tenths of the study, trials/s: " + " ".join(f"{rate:.0f}" for rate in tenths))
    rate, theirs = harness.median(few), harness.median(optuna)
    return [
        harness.at_least(f"orchestration: {FEW} trials", rate, 150, "/s"),
        harness.at_least(
            "orchestration: against Optuna", rate / theirs, 1.5, "x", f"Optuna {theirs:.0f}/s"
        ),
        harness.at_least(
            f"orchestration: {MANY} trials to {FEW}",
            many / rate,
            0.9,
            "x",
            f"{many:.0f}/s; last tenth to second tenth {tenths[-1] / tenths[1]:.2f}",
        ),
    ]


def _rate(study: Study) -> float:
    first, last = study.span
    return len(study.clock("complete")) / (last - first)


def _about(study: Study) -> str:
    count = len(study.clock("complete"))
    shares = ", ".join(
        f"{kind} {1000 * seconds / count:.2f}" for kind, seconds in sorted(study.run.shares.items())
    )
    return (
        f"{count} trials {_rate(study):.0f}/s; CPU ms per trial, start-up included: {shares}; "
        f"others had {study.run.others:.2f} cores"
    )


def _rates_of_tenths(study: Study) -> list[float]:
    """Return the rate of each tenth of the study, to show whether it slows down as it grows."""
    ends = sorted(study.clock("complete"))
    step = len(ends) // 10
    marks = [study.span[0], *ends[step - 1 :: step]]
    return [step / (after - before) for before, after in pairwise(marks)]


def _optuna(folder: Path) -> float:
    """Return Optuna's trials per second, on a Redis with the settings of our embedded one."""
    from scattershot_common.bus.server import EmbeddedServer

    server = EmbeddedServer(folder)
    try:
        url = server.start()
        run = harness.timed([sys.executable, "-m", "bench.optuna_side", "noop", url, str(FEW)])
    finally:
        server.stop()
    return FEW / run.answer


if __name__ == "__main__":
    harness.main(measure)
