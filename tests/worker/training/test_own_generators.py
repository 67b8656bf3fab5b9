"""Generators of a user's own: the same numbers whatever was trained before, and after a resume."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import scattershot as ss
from scattershot_common.task.task import Data, Task
from scattershot_worker.training.own_generators import OwnGenerators
from support.workbench import Workbench

MODULES_OWN = np.random.default_rng(0)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Examples with noise from a generator of the data set's own."""

    def __init__(self, noise: Callable[[], float], own: Any = None) -> None:
        self.x = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
        self.noise, self.own = noise, own

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        return x + self.noise(), x.sum().view(1)


def noisy(noise: Callable[[], float], own: Any = None, **options: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(noise, own), 16, **options)


def plain(**options: Any) -> DataLoader[Any]:
    data = Noisy(lambda: 0.0)
    return DataLoader(data, 16, **options)


def _of(own: Any, draw: Callable[[], Any]) -> DataLoader[Any]:
    return noisy(lambda: float(draw()), own)


def _pcg() -> DataLoader[Any]:
    own = np.random.default_rng(0)
    return _of(own, own.standard_normal)


def _state() -> DataLoader[Any]:
    own = np.random.RandomState(0)
    return _of(own, own.randn)


def _python() -> DataLoader[Any]:
    own = random.Random(0)
    return _of(own, own.random)


def _torch() -> DataLoader[Any]:
    own = torch.Generator().manual_seed(0)
    return _of([own], lambda: torch.randn((), generator=own).item())


def _sampler() -> DataLoader[Any]:
    data = Noisy(lambda: 0.0)
    return DataLoader(data, 16, sampler=RandomSampler(data, generator=torch.Generator()))


def _collated() -> DataLoader[Any]:
    own = np.random.default_rng(0)

    def collate(own: Any, items: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = (torch.stack(parts) for parts in zip(*items, strict=True))
        return x + own.standard_normal(), y

    return plain(collate_fn=functools.partial(collate, own))


def _draw() -> float:
    return float(np.random.randn())


LOADERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "of the loader": lambda: plain(shuffle=True, generator=torch.Generator().manual_seed(0)),
    "of a sampler": _sampler,
    "numpy's": _pcg,
    "numpy's old": _state,
    "Python's": _python,
    "torch's": _torch,
    "of the module": lambda: noisy(lambda: float(MODULES_OWN.standard_normal())),
    "of a function": _collated,
}
WORKERS: dict[str, Callable[[], DataLoader[Any]]] = {
    "persistent": lambda: noisy(_draw, num_workers=1, persistent_workers=True),
    "with its own": lambda: plain(
        shuffle=True, generator=torch.Generator(), num_workers=1, persistent_workers=True
    ),
}


class Loaded(Task):
    kind = "regression"

    def __init__(self, loader: Callable[[], DataLoader[Any]]) -> None:
        super().__init__()
        self._make = loader

    def data(self) -> Data:
        x = torch.randn(32, 4)
        return Data(self._make(), (x, x.sum(1, keepdim=True)))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Linear(4, 1)


def history(workbench: Workbench, trial: int) -> list[float]:
    return [metrics["val_loss"] for _, metrics in workbench.reported(trial)]


def by_loss(workbench: Workbench) -> None:
    workbench.context.studies["study"] = replace(workbench.info, metric="val_loss", goal="minimize")


def check(workbench: Workbench, make: Callable[[], Any]) -> None:
    """Train a trial first, then after another one, and in two attempts: all must agree."""
    by_loss(workbench)
    MODULES_OWN.bit_generator.state = np.random.PCG64(0).state
    task = make()
    workbench.run(task, 1, until=4, seed=5)
    workbench.run(task, 2, until=4, seed=6)
    workbench.run(task, 3, until=4, seed=5)
    first = history(workbench, 1)
    assert len(first) == 4 and history(workbench, 3) == first != history(workbench, 2)
    workbench.run(make(), 4, until=2, epochs=4, seed=5)
    workbench.run(make(), 4, attempt=2, until=4, epochs=4, seed=5)
    assert history(workbench, 4) == first


@pytest.mark.parametrize("name", LOADERS)
def test_a_trial_has_the_same_numbers_whatever_came_before(workbench: Workbench, name: str) -> None:
    check(workbench, lambda: Loaded(LOADERS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKERS)
def test_workers_that_persist_make_no_difference(workbench: Workbench, name: str) -> None:
    check(workbench, lambda: Loaded(WORKERS[name]))


@pytest.mark.parametrize("name", ["of the loader", "of a sampler", "numpy's", "of the module"])
def test_so_it_is_with_a_train_function(workbench: Workbench, name: str) -> None:
    def make() -> Callable[[Any], None]:
        loader = LOADERS[name]()

        def train(trial: ss.TrialHandle) -> None:
            model = nn.Linear(4, 1)
            model.bias.data.fill_(float(MODULES_OWN.standard_normal()))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            for _ in trial.epochs(model=model, optimizer=optimizer):
                for x, y in trial.batches(loader):
                    loss = (model(x) - y).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                trial.report(val_loss=loss.item())

        return train

    check(workbench, make)


class Own(Task):
    """Draws the weights, the augmentation and the loss's noise from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def data(self) -> Data:
        x = torch.randn(32, 4)
        return Data((x, (x.sum(1) > 0).long()), (x, (x.sum(1) > 0).long()))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        model = nn.Linear(4, 2)
        model.weight.data.fill_(float(self.rng.standard_normal()))
        return model

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x + float(self.rng.standard_normal())


def test_so_it_is_with_generators_of_the_task(workbench: Workbench) -> None:
    check(workbench, Own)


def test_global_generators_and_loaders_without_their_own_are_left_alone() -> None:
    data = Noisy(lambda: 0.0)
    data.own = (np.random.mtrand._rand, torch.default_generator, np.random)
    torch.manual_seed(3)
    np.random.seed(3)
    before, numpys = torch.random.get_rng_state(), repr(np.random.get_state())
    OwnGenerators(DataLoader(data, 16, shuffle=True)).seed(1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert numpys == repr(np.random.get_state())


def test_a_generator_that_cannot_be_seeded_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    data = TensorDataset(torch.zeros(3))
    data.own = random.SystemRandom()  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            OwnGenerators(data).seed(seed)
    (record,) = caplog.records
    assert record.message.startswith("a SystemRandom cannot be seeded")
