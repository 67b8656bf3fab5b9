"""Owns the cost of looking: what monitors add to an epoch of a small and of a larger network."""

from __future__ import annotations

import gc
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

_ROUNDS, _EPOCHS = 12, 30
_CPU = torch.device("cpu")


def _trial(task: Digits, params: Mapping[str, Any], *, on: bool) -> float:
    """Return the CPU seconds that a trial's epochs take, as `trainer.train` does them."""
    seed_everything(0)
    data = data_on(task, _CPU)
    training = Training(task, params, seed=0, budget=_EPOCHS, device=_CPU)
    watch = Watch(training) if on else None
    gc.collect()
    begun = time.process_time()
    for epoch in range(1, _EPOCHS + 1):
        training.begin_epoch(epoch, [])
        train_epoch(training, data.train, lambda: None, watch)
        with nullcontext() if watch is None else watch.evaluation():
            _, outputs, _ = evaluate(task, training.model, data.val, _CPU)
        if watch is not None:
            watch.end_epoch(outputs)
    return time.process_time() - begun


def measure() -> list[Figure]:
    """Measure both in turn, so that what else the machine does falls on both."""
    torch.set_num_threads(1)
    task, figures = Digits(), []
    nets: dict[str, dict[str, Any]] = {
        "MLP on digits": {"hidden": 128},
        "CNN on digits": {"model": "cnn"},
    }
    for name, params in nets.items():
        rounds = _ROUNDS if name.startswith("MLP") else 3
        for on in (False, True):
            _trial(task, params, on=on)
        pairs = [[_trial(task, params, on=on) for on in (False, True)] for _ in range(rounds)]
        share = median([on / off for off, on in pairs]) - 1
        per_epoch = 1000 * median([off for off, _ in pairs]) / _EPOCHS
        note = f"{_EPOCHS} epochs of {per_epoch:.1f} ms CPU without"
        figures.append(at_most(f"monitors, {name}", 100 * share, 3, "%", note))
    return figures


if __name__ == "__main__":
    main(measure)
