"""Train functions of the benchmarks."""

from __future__ import annotations

from typing import Any


def noop(trial: Any) -> None:
    """Report every epoch, and do nothing else."""
    for epoch in trial.epochs():
        trial.report(val_accuracy=0.5 + trial.params["x"] * 0.001 * epoch, val_loss=1.0)


def long_epochs(trial: Any) -> None:
    """Report two epochs without progress at once, then train a third one for minutes."""
    import torch

    model = torch.nn.Linear(256, 256)
    x = torch.randn(64, 256)
    for epoch in trial.epochs(model=model):
        for _ in trial.batches(range(1_000_000 if epoch == 3 else 0)):
            model(x).square().mean().backward()
        trial.report(val_accuracy=0.5)
