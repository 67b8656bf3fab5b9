"""The data of a task: numpy arrays become tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scattershot_common.task.task import Data


def test_numpy_arrays_become_tensors_once() -> None:
    x, y = np.arange(6.0).reshape(3, 2), np.array([0, 1, 0])
    arrays: Any = (x, y), (x[::-1], torch.tensor([1, 2, 3])), (x.astype(np.float32), y > 0)
    data = Data(*arrays)
    train: Any = data.train
    assert train[0].dtype == torch.float32 and train[1].dtype == torch.int64
    val: Any = data.val
    assert val[0].tolist() == x[::-1].tolist() and val[1].tolist() == [1, 2, 3]
    test: Any = data.test
    assert test[1].dtype == torch.bool
    x[0, 0] = 9.0
    assert train[0][0, 0] == 0.0


def test_tensors_and_loaders_stay_what_they_are() -> None:
    part = torch.zeros(2, 3), torch.zeros(2)
    loader: Any = [part]
    data = Data(part, loader)
    assert data.train is part and data.val is loader and data.test is None
