"""Trials in one process that change what they share: each is trained as in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import scattershot as ss
from scattershot_common.task.task import Data, Task
from scattershot_worker.fused import NotFusable, probe
from scattershot_worker.fused.verify import verify
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training
from support.workbench import Workbench

CPU = torch.device("cpu")
GAMMA = 0.0


class Base(Task):
    """Two classes, and a loss whose focus is a hyperparameter."""

    def data(self) -> Data:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(96, 6, generator=generator)
        y = (x.sum(1) > 0).long()
        return Data((x[:64], y[:64]), (x[64:], y[64:]))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Linear(6, 2)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"acc": super().metrics(outputs, targets)["accuracy"]}


def focal(outputs: Tensor, targets: Tensor, gamma: float) -> Tensor:
    entropy = functional.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-entropy).exp()) ** gamma * entropy).mean()


class OnSelf(Base):
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        self.gamma = params["gamma"]
        return super().model(params)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return focal(outputs, targets, self.gamma)


class InModule(Base):
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        globals()["GAMMA"] = params["gamma"]
        return super().model(params)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return focal(outputs, targets, GAMMA)


class InEnvironment(Base):
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        os.environ["GAMMA"] = str(params["gamma"])
        return super().model(params)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return focal(outputs, targets, float(os.environ["GAMMA"]))


class Sometimes(Base):
    """Keeps it only where it is given: a trial without it must not find another's."""

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        if "gamma" in params:
            self.gamma = params["gamma"]
        return super().model(params)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return focal(outputs, targets, getattr(self, "gamma", 1.0))


class Given(Base):
    def loss(self, outputs: Tensor, targets: Tensor, params: Any = None) -> Tensor:
        return focal(outputs, targets, params["gamma"])


class Counting(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return focal(outputs, targets, 0.1 * self.calls)


class CountingMetrics(Base):
    best = 0.0

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        self.best = max(self.best, super().metrics(outputs, targets)["acc"])
        return {"acc": self.best}


def last(workbench: Workbench, trial: int) -> dict[str, float]:
    """Return the metrics that a trial has reported last."""
    return workbench.reported(trial)[-1][1]


def losses(
    workbench: Workbench, task: Task, trials: Mapping[int, Mapping[str, Any]]
) -> list[float]:
    """Train trials one after the other in this process; return their last validation losses."""
    workbench.context.studies["study"] = replace(workbench.info, metric="val_loss", goal="minimize")
    for trial, params in trials.items():
        workbench.run(task, trial, until=2, seed=5, params={"lr": 0.5, **params})
    return [last(workbench, trial)["val_loss"] for trial in trials]


@pytest.mark.parametrize("task", [OnSelf, InModule, InEnvironment, Given])
def test_each_trial_is_trained_with_its_own_hyperparameter(
    workbench: Workbench, task: type[Task]
) -> None:
    both = losses(workbench, task(), {1: {"gamma": 4.0}, 2: {"gamma": 0.0}, 3: {"gamma": 4.0}})
    assert both[0] == both[2] != both[1]


def test_a_trial_does_not_find_what_another_has_kept(workbench: Workbench) -> None:
    found = losses(workbench, Sometimes(), {1: {}, 2: {"gamma": 4.0}, 3: {}})
    assert found[0] == found[2] != found[1]


def test_a_count_begins_anew_in_every_trial(workbench: Workbench) -> None:
    found = losses(workbench, Counting(), {1: {}, 2: {}})
    assert found[0] == found[1]
    found = losses(workbench, CountingMetrics(), {3: {}, 4: {"lr": 0.0}, 5: {"lr": 0.0}})
    assert last(workbench, 4)["val_acc"] < last(workbench, 3)["val_acc"]


def test_the_settings_of_a_trial_do_not_outlast_it(workbench: Workbench) -> None:
    def train(trial: ss.TrialHandle) -> None:
        if trial.params.get("double"):
            torch.set_default_dtype(torch.float64)
        for _ in trial.epochs():
            trial.report(acc=float(torch.zeros(1).element_size()))

    for trial, params in {1: {}, 2: {"double": True}, 3: {}}.items():
        workbench.run(train, trial, until=1, params=params)
    sizes = [last(workbench, trial)["acc"] for trial in (1, 2, 3)]
    assert sizes == [4.0, 8.0, 4.0]


# ---- lanes


def training(task: Task, **params: Any) -> Training:
    seed_everything(3)
    return Training(task, {"lr": 0.5, **params}, seed=3, budget=2, device=CPU)


@pytest.mark.parametrize(
    ("task", "why"),
    [
        (Counting, "self.calls"),
        (CountingMetrics, "self.best"),
        (OnSelf, "differs"),
        (InModule, "differs"),
        (InEnvironment, "differs"),
    ],
)
def test_the_proof_finds_what_lanes_would_share(task: type[Task], why: str) -> None:
    instance = task()
    trial, data = training(instance, gamma=4.0), instance.data()
    with pytest.raises(NotFusable, match=why):
        verify(instance, trial, data, probe(instance, trial, data))


def test_a_loss_that_takes_the_hyperparameters_is_trained_alone() -> None:
    task = Given()
    with pytest.raises(NotFusable, match="its loss takes the hyperparameters"):
        probe(task, training(task, gamma=1.0), task.data())


def test_a_healthy_task_passes_the_proof() -> None:
    task = Base()
    trial, data = training(task, momentum=0.5), task.data()
    verify(task, trial, data, probe(task, trial, data))
