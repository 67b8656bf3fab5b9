"""A task's data: read once, moved to a device, refused where it is wrong; and its batches."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data
from scattershot_worker.training.data import batches, data_on
from support.toy_task import points, with_data

CPU = torch.device("cpu")


# ---- batches


def test_every_example_is_seen_once_in_an_order_of_its_own() -> None:
    x, y = torch.arange(25), torch.arange(25) * 10
    orders = []
    for seed in (1, 1, 2):
        pairs = list(batches((x, y), 10, CPU, torch.Generator().manual_seed(seed)))
        assert [len(inputs) for inputs, _ in pairs] == [10, 10, 5]
        assert all(torch.equal(10 * inputs, targets) for inputs, targets in pairs)
        orders.append(torch.cat([inputs for inputs, _ in pairs]).tolist())
    assert sorted(orders[0]) == list(range(25))
    assert orders[0] == orders[1] != orders[2]


def test_without_a_generator_the_order_stays() -> None:
    x = torch.arange(25)
    parts = [inputs for inputs, _ in batches((x, x), 10, CPU, None)]
    assert torch.cat(parts).tolist() == list(range(25))


# ---- data


def test_data_is_read_once_and_kept_for_the_next_trial() -> None:
    reads = []

    def read() -> Data:
        reads.append(1)
        return Data(points(4), points(4))

    task = with_data(read)
    assert data_on(task, CPU) is data_on(task, CPU)
    assert len(reads) == 1


def test_a_split_at_random_is_the_same_in_every_worker() -> None:
    def draw() -> Data:
        x = torch.tensor([random.random(), float(np.random.rand()), float(torch.rand(()))])
        return Data((x, x), (x, x))

    splits = []
    for trial_seed in (1, 2):
        random.seed(trial_seed)
        np.random.seed(trial_seed)
        torch.manual_seed(trial_seed)
        splits.append(data_on(with_data(draw), CPU).train[0])  # type: ignore[index]
    assert torch.equal(*splits)


def test_whether_a_trial_was_the_first_to_read_the_data_does_not_show() -> None:
    def draw() -> Data:
        random.random(), np.random.rand(), torch.rand(5)
        return Data(points(4), points(4))

    task, drawn = with_data(draw), []
    for _ in range(2):
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        data_on(task, CPU)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]


X, Y = points(4)
Wrong: Any = Data


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (None, r"Toy\.data\(\) must return scattershot\.Data\(train=…, val=…\), not a NoneType"),
        ((X, Y), r"not a tuple"),
        (Data((X, Y), (X, Y[:3])), "x has 4 examples and y 3; both must have the same number"),
        (Data((X[:0], Y[:0]), (X, Y)), "x has 0 examples and y 0; .* above 0"),
        (Data((X, Y), (X, Y), (X, Y[:1])), "x has 4 examples and y 1"),
        (Wrong((X.tolist(), Y.tolist()), (X, Y)), r"pair \(x, y\) of tensors .*, not \(list, list"),
        (Wrong((X, Y), None), r"pair \(x, y\) of tensors or a DataLoader, not a NoneType"),
        (Wrong((X, Y, Y), (X, Y)), r"pair \(x, y\) of tensors .*, not \(Tensor, Tensor, T"),
        (Data(iter([(X, Y)]), (X, Y)), "not a list_iterator"),
    ],
)
def test_wrong_data_is_refused_with_what_is_right(made: Any, complaint: str) -> None:
    with pytest.raises(TaskError, match=complaint):
        data_on(with_data(lambda: made), CPU)
