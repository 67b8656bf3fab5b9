"""Benchmark `fused`: trials as lanes of one program, against a bare loop and Optuna."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bench import harness, overhead
from bench.harness import Figure
from bench.overhead import Round
from scattershot_common.task.task import Data, Task
from scattershot_worker.fused import FusedEngine, NotFusable, Tuner, probe
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training, train_epoch

ROUNDS = 5
TARGET = 4.0
#: What lanes of a network that fills a core may cost, as a part of the speed alone.
_AS_FAST = 0.97
_EXAMPLES = 2560


def measure() -> list[Figure]:
    """Run the study of `overhead` against the others, then networks that gain nothing by lanes."""
    return [*_study(), *_large()]


def _study() -> list[Figure]:
    text = overhead.study_text()
    drawn = overhead.points(text)
    rounds: list[Round] = []
    with harness.folder() as folder:
        # the first round measures how many lanes are fastest, as a first study on a machine does
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        file = folder / "points.json"
        file.write_text(json.dumps(drawn))
        for number in range(ROUNDS):
            rounds.append(overhead.one_round(number, text, file, folder / str(number)))
            overhead.say(number, rounds[-1])
        print(overhead.accuracies(rounds[0].ours, folder / "0" / "bare.json"))
    first, *others = rounds
    spans = [round_.bare_span / round_.span for round_ in others]
    return [
        harness.at_least(
            "fused: trials per hour to a bare loop's",
            harness.median(spans),
            TARGET,
            " x",
            note=f"{harness.spread(spans)}; with nothing measured before "
            f"{first.bare_span / first.span:.2f}; whole commands "
            f"{harness.median([round_.bare.wall / round_.ours.run.wall for round_ in others]):.2f}",
        ),
        harness.at_least(
            "fused: Optuna's time to ours",
            harness.median([round_.optuna_span / round_.span for round_ in others]),
            TARGET,
            " x",
            note="random sampler, journal, two processes, torch.save per epoch",
        ),
    ]


# ---- networks whose kernels fill a core


class _Pictures(Task):
    """Random pictures of MNIST's shape: what is measured does not depend on what is in them."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shape = (784,) if flat else (1, 28, 28)
        x = torch.randn(_EXAMPLES, *shape, generator=generator)
        y = torch.randint(0, 10, (_EXAMPLES,), generator=generator)
        self._flat, self._data = flat, Data((x, y), (x[:256], y[:256]))

    def data(self) -> Data:
        return self._data

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        if self._flat:
            wide = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
            return nn.Sequential(*wide, nn.Linear(512, 10))
        first = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        second = [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        return nn.Sequential(*first, *second, nn.Linear(64 * 49, 10))


def _large() -> list[Figure]:
    torch.set_num_threads(1)
    return [
        _as_planned("784-512-512-10, batch 128", _Pictures(flat=True), 128),
        _as_planned("CNN of 28x28, batch 64", _Pictures(flat=False), 64),
    ]


def _as_planned(name: str, task: Task, batch: int) -> Figure:
    """Return how fast a trial is as the tuner has it trained, to one alone."""
    data = task.data()

    def training(seed: int) -> Training:
        seed_everything(seed)
        params = {"lr": 1e-3, "optimizer": "adamw", "batch_size": batch}
        return Training(task, params, seed=seed, budget=99, device=torch.device("cpu"))

    with harness.folder() as folder:
        tuner = Tuner(0, folder / "lanes.json")
        try:
            signature = probe(task, training(0), data)
            plan = tuner.plan(task, training(0), data, signature, None)
        except NotFusable as no:
            return harness.at_least(f"fused: {name}", 1.0, _AS_FAST, " x", note=str(no))
    if plan.kind == "alone":
        return harness.at_least(f"fused: {name}", 1.0, _AS_FAST, " x", note=plan.reason)
    engine = FusedEngine(task, data, signature, plan.programs)
    for seed in range(plan.lanes):
        engine.admit(engine.lane(training(seed)))
    alone, ratios = training(0), []
    for epoch in range(1, ROUNDS + 2):
        alone.begin_epoch(epoch, [])
        alone_s = harness.seconds(lambda: train_epoch(alone, data.train, lambda: None))
        for lane in engine.lanes:
            lane.training.begin_epoch(epoch, [])
        lane_s = harness.seconds(lambda: engine.train_epoch(lambda: None)) / plan.lanes
        ratios.append(alone_s / lane_s)
    ratio = harness.median(ratios[1:])
    note = f"{plan.lanes} lanes; {harness.spread(ratios[1:])}"
    return harness.at_least(f"fused: {name}", ratio, _AS_FAST, " x", note=note)


if __name__ == "__main__":
    harness.main(measure)
