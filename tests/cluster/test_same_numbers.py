"""A trial's numbers depend neither on the number of workers nor on what they trained before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.conftest import Run, export

TASKS = """\
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
import scattershot as ss

LARGE = torch.zeros(1 << 19)


def points():
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    return x, (x.sum(1) > 0).long()


class Base(ss.Task):
    def data(self):
        x, y = points()
        return ss.Data(train=(x[:192], y[:192]), val=(x[192:], y[192:]))

    def model(self, params):
        return torch.nn.Linear(4, 2)


class Loaded(Base):
    def data(self):
        x, y = points()
        order = torch.Generator().manual_seed(0)
        loader = DataLoader(TensorDataset(x[:192], y[:192]), 16, shuffle=True, generator=order)
        return ss.Data(train=loader, val=(x[192:], y[192:]))


class Noisy(TensorDataset):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + np.random.randn(), y


class Persistent(Base):
    def data(self):
        x, y = points()
        loader = DataLoader(Noisy(x[:192], y[:192]), 16, num_workers=1, persistent_workers=True)
        return ss.Data(train=loader, val=(x[192:], y[192:]))


class Focal(Base):
    def model(self, params):
        self.gamma = 50 * params["lr"]
        return super().model(params)

    def loss(self, outputs, targets):
        entropy = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
        return ((1 - (-entropy).exp()) ** self.gamma * entropy).mean()


class Large(Base):
    def model(self, params):
        LARGE.add_(params["lr"])
        model = super().model(params)
        model.bias.data.fill_(float(LARGE[0]))
        return model
"""

STUDY = """\
[study]
name = "{name}"
task = "mine:{name}"
metric = "val_loss"
goal = "minimize"
[space]
lr = {{ loguniform = [1e-3, 1e-1] }}
[[stage]]
name = "all"
trials = 6
epochs = 2
[kill]
rule = "none"
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Loaded", "Persistent", "Focal", "Large"])
def test_one_worker_and_two_train_the_same(scattershot: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(TASKS)
    (tmp_path / "study.toml").write_text(STUDY.format(name=name))
    found: list[Any] = []
    for workers, lanes in ((1, 1), (2, 8)):
        out = tmp_path / f"{workers}"
        scattershot(
            "run", "study.toml", "--workers", workers, "--lanes", lanes, "--out", out, cwd=tmp_path
        )
        trials = export(scattershot, out / name)["trials"]
        found.append(
            {
                trial["trial"]: [record["val_loss"] for record in trial["history"]]
                for trial in trials
            }
        )
    assert len(found[0]) == 6 and found[0] == found[1]
