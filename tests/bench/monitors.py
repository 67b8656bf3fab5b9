"""Owns the cost of looking: what monitors add to an epoch of a small and of a larger network."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch

from bench.harness import Figure, at_most, main, median
from scattershot_worker.handle import seed_everything
from scattershot_worker.monitors.watch import Watch
from scattershot_worker.tasks.digits import Digits
from scattershot_worker.trainer import data_on, evaluate, train_epoch
from scattershot_worker.training import Training

_EPOCHS = 30
_CPU = torch.device("cpu")
#: What is trained, and in how many rounds.
_NETS: dict[str, tuple[dict[str, Any], int]] = {
    "MLP on digits": ({"hidden": 128}, 40),
    "CNN on digits": ({"model": "cnn"}, 12),
}


class _Trial:
    """One of two trials that are trained side by side, as `trainer.train` does it."""

    def __init__(self, task: Digits, params: Mapping[str, Any], *, on: bool) -> None:
        seed_everything(0)
        self.task, self.data, self.seconds = task, data_on(task, _CPU), 0.0
        self.training = Training(task, params, seed=0, budget=_EPOCHS, device=_CPU)
        self.watch = Watch(self.training) if on else None

    def train(self, epoch: int) -> None:
        """Train for an epoch; the CPU time of it is added to `seconds`."""
        training, watch, data = self.training, self.watch, self.data
        begun = time.process_time()
        training.begin_epoch(epoch, [])
        train_epoch(training, data.train, lambda: None, watch)
        with nullcontext() if watch is None else watch.evaluation():
            _, outputs, _ = evaluate(self.task, training.model, data.val, _CPU)
        if watch is not None:
            watch.end_epoch(outputs)
        self.seconds += time.process_time() - begun


def _round(task: Digits, params: Mapping[str, Any]) -> tuple[float, float]:
    """Return the seconds without and with monitors, of two trials that take turns by epochs.

    A machine's speed drifts by more than monitors cost; from one epoch to the next it does not.
    """
    pair = [_Trial(task, params, on=on) for on in (False, True)]
    gc.collect()
    for epoch in range(1, _EPOCHS + 1):
        for trial in pair if epoch % 2 else pair[::-1]:
            trial.train(epoch)
    off, on = pair
    return off.seconds, on.seconds


def measure() -> list[Figure]:
    """Return the share that monitors add to a trial's epochs."""
    torch.set_num_threads(1)
    task, figures = Digits(), []
    for name, (params, rounds) in _NETS.items():
        _round(task, params)
        gc.freeze()  # as a worker's child does: what is imported is not gone through again
        seen = [_round(task, params) for _ in range(rounds)]
        shares = [100 * (on / off - 1) for off, on in seen]
        low, _, high = statistics.quantiles(shares, n=4)
        per_epoch = 1000 * median([off for off, _ in seen]) / _EPOCHS
        note = f"half of {rounds} rounds {low:.1f} to {high:.1f}; {per_epoch:.1f} ms CPU an epoch"
        figures.append(at_most(f"monitors, {name}", median(shares), 3, "%", note))
    return figures


if __name__ == "__main__":
    main(measure)
