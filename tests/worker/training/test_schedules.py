"""Schedules held to those of torch.optim.lr_scheduler, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

from scattershot_worker.training import schedules
from scattershot_worker.training.hyperparameters import Hyperparameters

STEPS = 60
Scheduler = Callable[[torch.optim.Optimizer], Any]


def ours(**params: Any) -> list[float]:
    how = Hyperparameters.of(params)
    return [schedules.factor(step / STEPS, how) for step in range(STEPS)]


def torchs(make: Scheduler, lr: float = 1.0) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"] / lr)
        optimizer.step()
        scheduler.step()
    return rates


SAME: list[tuple[dict[str, Any], Scheduler]] = [
    ({}, lambda o: theirs.ConstantLR(o, factor=1.0)),
    ({"schedule": "step"}, lambda o: theirs.StepLR(o, STEPS // 3, 0.1)),
    (
        {"schedule": "step", "drop_every": 0.25, "drop_factor": 0.5},
        lambda o: theirs.StepLR(o, STEPS // 4, 0.5),
    ),
    ({"schedule": "exponential"}, lambda o: theirs.ExponentialLR(o, 0.01 ** (1 / STEPS))),
    ({"schedule": "linear"}, lambda o: theirs.LinearLR(o, 1.0, 0.0, STEPS)),
    ({"schedule": "linear", "final_factor": 0.2}, lambda o: theirs.LinearLR(o, 1.0, 0.2, STEPS)),
    ({"schedule": "cosine"}, lambda o: theirs.CosineAnnealingLR(o, STEPS)),
    (
        {"schedule": "cosine", "final_factor": 0.1},
        lambda o: theirs.CosineAnnealingLR(o, STEPS, eta_min=0.1),
    ),
    (
        {"schedule": "snapshots", "cycles": 4},
        lambda o: theirs.CosineAnnealingWarmRestarts(o, STEPS // 4),
    ),
    ({"schedule": "inverse"}, lambda o: theirs.LambdaLR(o, lambda s: 1 / (1 + 99 * s / STEPS))),
    (
        {"schedule": "cosine", "warmup": 0.25},
        lambda o: theirs.LambdaLR(
            o,
            lambda s: s / 15 if s < 15 else (1 + math.cos(math.pi * (s - 15) / 45)) / 2,
        ),
    ),
    (
        {"schedule": "linear", "warmup": 0.5},
        lambda o: theirs.LambdaLR(o, lambda s: s / 30 if s < 30 else 1 - (s - 30) / 30),
    ),
]


@pytest.mark.parametrize(
    ("params", "make"), SAME, ids=lambda value: str(value)[:40] if isinstance(value, dict) else None
)
def test_a_schedule_is_torchs(params: dict[str, Any], make: Scheduler) -> None:
    assert ours(**params) == pytest.approx(torchs(make), abs=1e-9)


def test_one_cycle_is_torchs_but_for_its_last_step() -> None:
    # torch's ends on its last step, ours on the end of the budget: one step is between them
    cycle = torchs(lambda o: theirs.OneCycleLR(o, max_lr=1.0, total_steps=STEPS + 1))
    assert ours(schedule="one_cycle") == pytest.approx(cycle, abs=0.04)
    assert max(ours(schedule="one_cycle")) == 1.0
    assert ours(schedule="one_cycle")[0] == pytest.approx(1 / 25)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_a_plateau_is_torchs(patience: int) -> None:
    losses = [3.0, 2.0, 2.5, 2.1, 1.0, 1.1, 1.2, 1.3, 0.9, 0.9, 0.9, 0.9, 0.5]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reduce = theirs.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience - 1, threshold=0.0)
    how = Hyperparameters(schedule="plateau", patience=patience)
    for epoch, loss in enumerate(losses, 1):
        reduce.step(loss)
        assert schedules.plateau(losses[:epoch], how) == optimizer.param_groups[0]["lr"]


def test_a_loss_that_is_no_number_is_no_progress() -> None:
    how = Hyperparameters(schedule="plateau", patience=2)
    assert schedules.plateau([1.0, math.nan, math.nan], how) == 0.5


def test_momentum_goes_evenly_to_its_last_value() -> None:
    how = Hyperparameters(final_momentum=0.99)
    values = [schedules.momentum(part / 4, 0.5, how) for part in range(5)]
    assert values == pytest.approx([0.5, 0.6225, 0.745, 0.8675, 0.99])
    assert schedules.momentum(0.5, 0.7, Hyperparameters()) == 0.7
