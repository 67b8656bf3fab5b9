"""Variables that trials share: what counts as a change, and what is put back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import scattershot as ss
from scattershot_worker.training.variables import Variables, user_modules


class Kept(ss.Task):
    """Keeps all kinds of things."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = 1.0
        self.sizes = [1, 2]
        self.names = {"a"}
        self.config = SimpleNamespace(depth=2, inner={"width": 3})
        self.weights = torch.ones(3)
        self.table = np.ones(3)
        self.large = torch.zeros(1 << 19)
        self.net = nn.Linear(2, 2)

    def data(self) -> ss.Data:
        raise NotImplementedError

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return self.net


CHANGES: dict[str, Callable[[Any], object]] = {
    "self.gamma": lambda task: setattr(task, "gamma", 2.0),
    "self.new": lambda task: setattr(task, "new", 2.0),
    "self.sizes": lambda task: task.sizes.append(3),
    "self.names": lambda task: task.names.add("b"),
    "self.config.depth": lambda task: setattr(task.config, "depth", 3),
    "self.config.inner": lambda task: task.config.inner.update(width=4),
    "self.weights": lambda task: task.weights.mul_(2),
    "self.table": lambda task: task.table.__imul__(2),
}


@pytest.mark.parametrize("name", [*CHANGES])
def test_a_change_of_a_tasks_attributes_is_noticed_and_undone(name: str) -> None:
    task, fresh = Kept(), Kept()
    variables = Variables(task)
    assert variables.changes() == []
    CHANGES[name](task)
    assert variables.changes() == [name]
    assert variables.restore() == []
    assert variables.changes() == []
    assert task.gamma == 1.0 and not hasattr(task, "new") and task.sizes == [1, 2]
    assert task.names == {"a"} and task.config == fresh.config
    assert torch.equal(task.weights, torch.ones(3)) and (task.table == 1).all()


def test_a_model_that_a_task_keeps_gets_its_first_weights_back() -> None:
    task = Kept()
    variables, before = Variables(task), task.net.weight.detach().clone()
    optimizer = torch.optim.SGD(task.net.parameters(), lr=1.0)
    task.net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(task.net.weight, before)
    assert variables.restore() == []
    assert torch.equal(task.net.weight, before)


def test_large_tensors_are_not_copied_and_cannot_be_put_back() -> None:
    task = Kept()
    variables = Variables(task)
    task.large.add_(1)
    assert variables.changes() == ["self.large"]
    assert variables.restore() == ["self.large"]


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    """A module of the user's, with all that may stand in one."""
    (tmp_path / "users_own.py").write_text(
        "GAMMA = None\nLOG = []\nCACHE = {}\nDATA = None\n"
        "class Settings:\n    depth = 1\n"
        "def train(trial, seen=[]):\n    pass\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        yield __import__("users_own")
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["users_own"]


def test_changes_of_the_users_modules_are_noticed_and_undone(module: Any) -> None:
    variables = Variables(module.train)
    module.GAMMA = 2.0
    module.LOG.append(1)
    module.Settings.depth = 3
    module.train.__defaults__[0].append(5)
    module.train.calls = 1
    changes = variables.changes()
    assert {"users_own.GAMMA", "users_own.LOG", "users_own.Settings.depth"} <= {*changes}
    assert variables.restore() == [] and variables.changes() == []
    assert module.GAMMA is None and module.LOG == [] and module.Settings.depth == 1
    assert module.train.__defaults__ == ([],) and not hasattr(module.train, "calls")


def test_data_that_a_trial_has_loaded_is_kept_and_named_and_nothing_else(module: Any) -> None:
    variables = Variables(module.train)
    module.DATA = (torch.zeros(1 << 16), torch.zeros(10))
    module.CACHE["train"] = TensorDataset(torch.zeros(2))
    module.GAMMA = torch.tensor(2.0)
    assert {*variables.accept_data()} == {"users_own.DATA", "users_own.CACHE"}
    assert variables.changes() == ["users_own.GAMMA"]
    variables.restore()
    assert module.GAMMA is None and module.DATA is not None and "train" in module.CACHE
    module.DATA = (torch.ones(1 << 16), torch.zeros(10))  # another one is no missing one
    assert variables.accept_data() == []


def test_a_library_that_a_function_imports_is_no_change(module: Any) -> None:
    variables = Variables(module.train)
    module.np = np
    assert variables.changes() == []


def test_the_program_itself_is_no_module_of_the_users_under_any_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Multiprocessing lists the main module a second time: that of a child is our own."""
    main = ModuleType("__main__")
    main.__file__ = "/somewhere/main.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(sys.modules, "__mp_main__", main)
    assert "__main__" not in user_modules()
