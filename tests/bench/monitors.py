"""Benchmark `monitors`: the time that monitors add to an epoch, alone and in lanes."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch

from bench.harness import Figure, at_most, main, median
from scattershot_worker.fused import FusedEngine, probe
from scattershot_worker.monitors.monitor import Monitor
from scattershot_worker.tasks.digits import Digits
from scattershot_worker.training.data import data_on
from scattershot_worker.training.evaluation import evaluate
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training, train_epoch

_LANES = 28
_CPU = torch.device("cpu")
_MLP = {"hidden": 128}


class _Alone:
    """A trial that trains alone, as `SoloEngine` does it."""

    def __init__(self, task: Digits, params: Mapping[str, Any], budget: int, *, on: bool) -> None:
        self.task, self.data = task, data_on(task, _CPU)
        self.training = _training(task, params, 0, budget)
        self.watch = Monitor(self.training) if on else None

    def train(self, epoch: int) -> None:
        """Train for an epoch, with all that is looked at."""
        training, watch, data = self.training, self.watch, self.data
        training.begin_epoch(epoch, [])
        train_epoch(training, data.train, lambda: None, watch)
        with nullcontext() if watch is None else watch.evaluation():
            evaluation = evaluate(training.hooks, training.model, data.val, _CPU)
        if watch is not None:
            watch.end_epoch(evaluation.outputs, evaluation.targets)


class _Pack:
    """Trials that train as lanes, as `Pack` does it."""

    #: A worker keeps an engine from pack to pack.
    engines: ClassVar[dict[bool, FusedEngine]] = {}

    def __init__(self, task: Digits, params: Mapping[str, Any], budget: int, *, on: bool) -> None:
        self.data = data_on(task, _CPU)
        trainings = [_training(task, params, seed, budget) for seed in range(_LANES)]
        if on not in self.engines:
            signature = probe(task, trainings[0], self.data)
            self.engines[on] = FusedEngine(task, self.data, signature)
        self.engine = self.engines[on]
        self.engine.monitors = on
        for lane in self.engine.lanes:
            self.engine.release(lane)
        for training in trainings:
            self.engine.admit(self.engine.lane(training))

    def train(self, epoch: int) -> None:
        """Train all lanes for an epoch, with all that is looked at."""
        for lane in self.engine.lanes:
            lane.training.begin_epoch(epoch, [])
        self.engine.train_epoch(lambda: None)
        for lane, result in self.engine.evaluate(self.data.val, lambda: None).items():
            self.engine.observations(lane, result)


def _training(task: Digits, params: Mapping[str, Any], seed: int, budget: int) -> Training:
    seed_everything(seed)
    return Training(task, params, seed=seed, budget=budget, device=_CPU)


#: What is trained, for how many epochs, and in how many rounds.
_CASES: dict[str, tuple[type[_Alone] | type[_Pack], dict[str, Any], int, int]] = {
    "MLP on digits": (_Alone, _MLP, 30, 40),
    "MLP on digits, 2 epochs": (_Alone, _MLP, 2, 200),
    "CNN on digits": (_Alone, {"model": "cnn"}, 30, 12),
    f"{_LANES} lanes of the MLP": (_Pack, _MLP, 30, 10),
    f"{_LANES} lanes, 8 epochs": (_Pack, _MLP, 8, 30),
    f"{_LANES} lanes, 2 epochs": (_Pack, _MLP, 2, 80),
}


def _round(
    kind: type[_Alone] | type[_Pack], task: Digits, params: Mapping[str, Any], epochs: int
) -> list[float]:
    """Return the CPU seconds without and with monitors, of two that take turns by epochs.

    A machine's speed drifts by more than monitors cost; from one epoch to the next it does not.
    Making the models and their optimizers is a part of a trial: it is counted, too.
    """
    pair, seconds = [], [0.0, 0.0]
    gc.collect()
    for which in (0, 1):
        begun = time.process_time()
        pair.append(kind(task, params, epochs, on=which == 1))
        seconds[which] += time.process_time() - begun
    for epoch in range(1, epochs + 1):
        for which in (0, 1) if epoch % 2 else (1, 0):
            begun = time.process_time()
            pair[which].train(epoch)
            seconds[which] += time.process_time() - begun
    return seconds


def measure() -> list[Figure]:
    """Return the share that monitors add to a trial."""
    torch.set_num_threads(1)
    task, figures = Digits(), []
    for name, (kind, params, epochs, rounds) in _CASES.items():
        _round(kind, task, params, epochs)
        gc.freeze()  # as a worker's child does: what is imported is not gone through again
        seen = [_round(kind, task, params, epochs) for _ in range(rounds)]
        shares = [100 * (on / off - 1) for off, on in seen]
        low, _, high = statistics.quantiles(shares, n=4)
        per_epoch = 1000 * median([off for off, _ in seen]) / epochs
        note = f"half of {rounds} rounds {low:.1f} to {high:.1f}; {per_epoch:.1f} ms CPU an epoch"
        figures.append(at_most(f"monitors, {name}", median(shares), 3, "%", note))
    return figures


if __name__ == "__main__":
    main(measure)
