"""Benchmark `overhead`: the whole system against a bare PyTorch loop over the same points."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import bare_loop, harness
from bench.harness import Figure, Run, Study

ROUNDS = 4
TRIALS = 64
TARGET = 1.10
_STUDY = """\
[study]
name = "overhead"
task = "digits"

[space]
{space}

[[stage]]
name = "all"
trials = {trials}
epochs = {epochs}
"""


def study_text() -> str:
    """Return the study file: the space of the example, one stage, no killer."""
    example = (harness.ROOT / "examples" / "digits.toml").read_text()
    space = example.partition("[space]")[2].partition("[[stage]]")[0]
    return _STUDY.format(space=space.strip(), trials=TRIALS, epochs=bare_loop.EPOCHS)


def points(text: str) -> list[dict[str, Any]]:
    """Return the points that the study draws."""
    from scattershot_common.study.settings import StudyFile
    from scattershot_master.samplers import SAMPLERS

    study = StudyFile.model_validate(tomllib.loads(text))
    box = study.space.whole()
    sampler = SAMPLERS["random"](study.study.seed, "all", box)
    return [study.space.at(box.at(point)) for point in sampler.ask(0, TRIALS)]


@dataclass(frozen=True)
class Round:
    """One run of each; `*_span` are seconds from the first trial's start to the last one's end."""

    ours: Study
    bare: Run
    bare_span: float
    optuna_span: float

    @property
    def span(self) -> float:
        first, last = self.ours.span
        return last - first

    @property
    def ready(self) -> float:
        """Seconds from the command's start to the last trial's end."""
        return self.ours.at("complete") - self.ours.run.begun


def measure() -> list[Figure]:
    """Run the three in turn, `ROUNDS` times; print what they took, return the ratios."""
    text = study_text()
    drawn = points(text)
    rounds: list[Round] = []
    with harness.folder() as folder:
        file = folder / "points.json"
        file.write_text(json.dumps(drawn))
        for number in range(ROUNDS):
            rounds.append(one_round(number, text, file, folder / str(number)))
            say(number, rounds[-1])
        sampled = [event["p"] for event in rounds[0].ours.events if event["e"] == "sampled"]
        if sampled != drawn:
            raise RuntimeError("the study trained other points than the bare loop")
        print(accuracies(rounds[0].ours, folder / "0" / "bare.json"))
    # ratios within a round: both sides had the same machine, however busy it was
    cpu = harness.median([round_.ours.run.cpu / round_.bare.cpu for round_ in rounds])
    optuna = harness.median([round_.optuna_span / round_.bare_span for round_ in rounds])
    return [
        harness.at_most(
            "overhead: first start to last end",
            harness.median([round_.span / round_.bare_span for round_ in rounds]),
            TARGET,
            note=f"Optuna {optuna:.2f}",
        ),
        harness.at_most(
            "overhead: command to last end",
            harness.median([round_.ready / round_.bare.wall for round_ in rounds]),
            TARGET,
        ),
        harness.at_most(
            "overhead: whole command",
            harness.median([round_.ours.run.wall / round_.bare.wall for round_ in rounds]),
            TARGET,
            note=f"with the ensemble and its test; CPU {cpu:.2f}",
        ),
    ]


def one_round(number: int, text: str, file: Path, folder: Path) -> Round:
    """Run all three; every other round the two that are compared change places."""
    folder.mkdir()
    if number % 2:
        ours = harness.run_study(text, folder / "ours")
    bare = harness.timed([sys.executable, bare_loop.__file__, file, folder / "bare.json"])
    if not number % 2:
        ours = harness.run_study(text, folder / "ours")
    optuna = harness.timed([sys.executable, "-m", "bench.optuna_side", "digits", file, folder])
    _, starts, ends, _ = zip(*json.loads((folder / "bare.json").read_text()), strict=True)
    return Round(ours, bare, max(ends) - min(starts), optuna.answer)


def say(number: int, round_: Round) -> None:
    run = round_.ours.run
    shares = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in sorted(run.shares.items()))
    ensemble = round_.ours.at("finished") - round_.ours.at("complete")
    print(
        f"round {number + 1}, seconds\n"
        f"  scattershot  whole {run.wall:.1f}: {round_.ours.span[0] - run.begun:.1f} to the first"
        f" start, training {round_.span:.1f}, ensemble {ensemble:.1f}; {run.busy}\n"
        f"               CPU by process: {shares}\n"
        f"  bare loop    whole {round_.bare.wall:.1f}: training {round_.bare_span:.1f};"
        f" {round_.bare.busy}\n"
        f"  Optuna       training {round_.optuna_span:.1f}",
        flush=True,
    )


def accuracies(study: Study, bare: Path) -> str:
    """Return the sign that both did the same work: their mean best validation accuracies."""
    best: dict[int, float] = {}
    for event in study.events:
        if event["e"] == "report":
            value = event["m"]["val_accuracy"]
            best[event["t"]] = max(best.get(event["t"], 0.0), value)
    theirs = [line[3] for line in json.loads(bare.read_text())]
    return (
        f"mean best validation accuracy of the {TRIALS} trials: scattershot "
        f"{sum(best.values()) / TRIALS:.4f}, bare loop {sum(theirs) / TRIALS:.4f}"
    )


if __name__ == "__main__":
    harness.main(measure)
