"""Owns the cost of looking: what monitors add to an epoch, alone and in lanes."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch

from bench.harness import Figure, at_most, main, median
from scattershot_worker.fused import Engine, probe
from scattershot_worker.fused.engine import Programs
from scattershot_worker.handle import seed_everything
from scattershot_worker.monitors.watch import Watch
from scattershot_worker.tasks.digits import Digits
from scattershot_worker.trainer import data_on, evaluate, tensors_of, train_epoch
from scattershot_worker.training import Training

_EPOCHS, _LANES = 30, 28
_CPU = torch.device("cpu")
_MLP = {"hidden": 128}


class _Alone:
    """A trial that trains alone, as `trainer.train` does it."""

    def __init__(self, task: Digits, params: Mapping[str, Any], *, on: bool) -> None:
        self.task, self.data = task, data_on(task, _CPU)
        self.training = _training(task, params, 0)
        self.watch = Watch(self.training) if on else None

    def train(self, epoch: int) -> None:
        """Train for an epoch, with all that is looked at."""
        training, watch, data = self.training, self.watch, self.data
        training.begin_epoch(epoch, [])
        train_epoch(training, data.train, lambda: None, watch)
        with nullcontext() if watch is None else watch.evaluation():
            _, outputs, _ = evaluate(self.task, training.model, data.val, _CPU)
        if watch is not None:
            watch.end_epoch(outputs)


class _Pack:
    """Trials that train as lanes, as `packs.Pack` does it."""

    programs: ClassVar[Programs] = {}

    def __init__(self, task: Digits, params: Mapping[str, Any], *, on: bool) -> None:
        self.data = data_on(task, _CPU)
        signature = probe(task, _training(task, params, 0), self.data)
        self.engine = Engine(task, self.data, signature, self.programs)
        self.engine.monitors = on
        for seed in range(_LANES):
            self.engine.admit(self.engine.lane(_training(task, params, seed)))

    def train(self, epoch: int) -> None:
        """Train all lanes for an epoch, with all that is looked at."""
        for lane in self.engine.lanes:
            lane.training.begin_epoch(epoch, [])
        self.engine.train_epoch(lambda: None)
        x, _ = tensors_of(self.data.val)
        for lane, result in self.engine.evaluate(self.data.val, lambda: None).items():
            self.engine.seen(lane, x, result.outputs)


def _training(task: Digits, params: Mapping[str, Any], seed: int) -> Training:
    seed_everything(seed)
    return Training(task, params, seed=seed, budget=_EPOCHS, device=_CPU)


#: What is trained, and in how many rounds.
_CASES: dict[str, tuple[type[_Alone] | type[_Pack], dict[str, Any], int]] = {
    "MLP on digits": (_Alone, _MLP, 40),
    "CNN on digits": (_Alone, {"model": "cnn"}, 12),
    f"{_LANES} lanes of the MLP": (_Pack, _MLP, 10),
}


def _round(
    kind: type[_Alone] | type[_Pack], task: Digits, params: Mapping[str, Any]
) -> list[float]:
    """Return the CPU seconds without and with monitors, of two that take turns by epochs.

    A machine's speed drifts by more than monitors cost; from one epoch to the next it does not.
    """
    pair = [kind(task, params, on=on) for on in (False, True)]
    seconds = [0.0, 0.0]
    gc.collect()
    for epoch in range(1, _EPOCHS + 1):
        for which in (0, 1) if epoch % 2 else (1, 0):
            begun = time.process_time()
            pair[which].train(epoch)
            seconds[which] += time.process_time() - begun
    return seconds


def measure() -> list[Figure]:
    """Return the share that monitors add to a trial's epochs."""
    torch.set_num_threads(1)
    task, figures = Digits(), []
    for name, (kind, params, rounds) in _CASES.items():
        _round(kind, task, params)
        gc.freeze()  # as a worker's child does: what is imported is not gone through again
        seen = [_round(kind, task, params) for _ in range(rounds)]
        shares = [100 * (on / off - 1) for off, on in seen]
        low, _, high = statistics.quantiles(shares, n=4)
        per_epoch = 1000 * median([off for off, _ in seen]) / _EPOCHS
        note = f"half of {rounds} rounds {low:.1f} to {high:.1f}; {per_epoch:.1f} ms CPU an epoch"
        figures.append(at_most(f"monitors, {name}", median(shares), 3, "%", note))
    return figures


if __name__ == "__main__":
    main(measure)
