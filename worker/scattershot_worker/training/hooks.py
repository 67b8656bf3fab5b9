"""The overridable methods of a task, called for one trial with its hyperparameters.

A hook that has a parameter `params` is given the trial's hyperparameters by this keyword.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from scattershot_common.task.task import Task


@cache
def takes_params(kind: type[Task], hook: str) -> bool:
    """Return whether a task's method has a parameter `params`; looked up once per class."""
    if getattr(kind, hook) is getattr(Task, hook):
        return False
    try:
        parameter = inspect.signature(getattr(kind, hook)).parameters.get("params")
    except (TypeError, ValueError):  # compiled, without a signature
        return False
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return parameter is not None and parameter.kind in by_keyword


@dataclass(frozen=True)
class Hooks:
    """A task's hooks with the hyperparameters of one trial; arguments as those of `Task`."""

    task: Task
    params: Mapping[str, Any]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch."""
        result: Tensor = self._call("loss", outputs, targets)
        return result

    def metrics(self, outputs: Tensor, targets: Tensor) -> Any:
        """Return what the task gives as metrics."""
        return self._call("metrics", outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return what ensembles average."""
        result: Tensor = self._call("predictions", outputs)
        return result

    def initial_loss(self, classes: int | None) -> float | None:
        """Return the expected loss of a network before training, if the task declares one."""
        result: float | None = self._call("initial_loss", classes)
        return result

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return an augmented training batch."""
        result: Tensor = self._call("augment", x, generator)
        return result

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer | None:
        """Return the optimizer that the task makes itself, if it does."""
        return self.task.optimizer(model, self.params)

    def _call(self, hook: str, *arguments: Any) -> Any:
        method = getattr(self.task, hook)
        if takes_params(type(self.task), hook):
            return method(*arguments, params=self.params)
        return method(*arguments)
