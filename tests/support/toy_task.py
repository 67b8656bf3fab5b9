"""A small classification task whose data a test can replace."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from scattershot_common.task.task import Data, Task


def points(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    return x, (x.sum(1) > 0).long()


class Toy(Task):
    """Two classes on either side of a plane; set `make_data` to bring other data."""

    make_data: Callable[[], Any] = staticmethod(lambda: Data(points(60, 1), points(30, 2)))

    def data(self) -> Data:
        made: Data = self.make_data()
        return made

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Linear(3, 2)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"acc": super().metrics(outputs, targets)["accuracy"]}


def with_data(make_data: Callable[[], Any], kind: type[Toy] = Toy) -> Toy:
    task = kind()
    task.make_data = make_data
    return task
