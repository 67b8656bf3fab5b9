"""Small healthy tasks for the tests of the checks, which break one thing at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import scattershot as ss
from scattershot_common.task.check_result import CheckResult

PARAMS = {"lr": 0.01, "weight_decay": 1e-4, "dropout": 0.2, "optimizer": "adamw"}


def points(count: int, seed: int = 0, classes: int = 4, size: int = 8) -> tuple[Tensor, Tensor]:
    """Return normalized points [N, size] around one centre for each class, and the classes [N]."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, size, generator=torch.Generator().manual_seed(9))
    y = torch.arange(count) % classes
    x = centres[y] + 0.3 * torch.randn(count, size, generator=generator)
    return x / x.std(), y


class Blobs(ss.Task):
    """Four blobs in eight dimensions, learned by a small network with dropout."""

    def data(self) -> ss.Data:
        return ss.Data(points(400), points(100, seed=1))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Dropout(params.get("dropout", 0.0)), nn.Linear(16, 4)
        )


def curve() -> tuple[Tensor, Tensor]:
    """Return inputs [300, 3] and a smooth function of them [300, 1]."""
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :1] - 0.5 * x[:, 1:2]).tanh() + 0.1 * x[:, 2:]


class Line(ss.Task):
    """A regression."""

    kind = "regression"

    def data(self) -> ss.Data:
        x, y = curve()
        return ss.Data((x[:200], y[:200]), (x[200:], y[200:]))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        dropout = nn.Dropout(params.get("dropout", 0.0))
        return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), dropout, nn.Linear(16, 1))


class Hinge(Blobs):
    """The blobs with the notes' multiclass support vector loss, summed over classes."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = outputs.gather(1, targets[:, None])
        return (outputs - right + 1).clamp_min(0).sum(1).mean() - 1


class Pictures(ss.Task):
    """The blobs as pictures, for a small convolutional network with batch norm and pooling."""

    def data(self) -> ss.Data:
        (x, y), (val_x, val_y) = (points(n, n, size=64) for n in (300, 100))
        return ss.Data((x.view(-1, 1, 8, 8), y), (val_x.view(-1, 1, 8, 8), val_y))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(params.get("dropout", 0.0)),
            nn.Linear(128, 4),
        )


class Loaded(Blobs):
    """The blobs out of DataLoaders."""

    def data(self) -> ss.Data:
        from torch.utils.data import DataLoader, TensorDataset

        train, val = TensorDataset(*points(400)), TensorDataset(*points(100, seed=1))
        return ss.Data(DataLoader(train, 32, shuffle=True), DataLoader(val, 100))


def checked(task: ss.Task | type[ss.Task], name: str, **params: Any) -> CheckResult:
    """Return what one check finds of a task."""
    (result,) = ss.check(task, {**PARAMS, **params}, only=[name], quiet=True)
    return result
