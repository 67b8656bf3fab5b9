"""Owns what one trial trains with: model, optimizer, and what a checkpoint keeps of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scattershot.task import Task
from scattershot_worker import dropout
from scattershot_worker.optimizers import make_optimizer


class Training:
    """A freshly made trial of a task class, on its device.

    torch's generators must be seeded for its weights; dropout has masks of its own, see `dropout`.
    """

    def __init__(
        self,
        task: Task,
        params: Mapping[str, Any],
        *,
        seed: int,
        budget: int,
        device: torch.device,
    ) -> None:
        self.task, self.params, self.budget = task, params, budget
        self.model = task.model(params).to(device)
        self.optimizer = task.optimizer(self.model, params) or make_optimizer(self.model, params)
        self.batch_size = int(params.get("batch_size", 32))
        self._device = device
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Take another seed, for the order of the data and for dropout."""
        self.seed = seed
        self.masks = dropout.Masks(seed, self._device)
        dropout.take_over(self.model, self.masks)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Do one step on a batch; return its mean loss, a scalar."""
        self.masks.begin_step()
        loss = self.task.loss(self.model(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @property
    def parts(self) -> dict[str, Any]:
        """What `trial.epochs` restores and checkpoints, by name."""
        return {"model": self.model, "optimizer": self.optimizer}
