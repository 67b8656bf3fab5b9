"""Owns models with lazy layers (`nn.LazyLinear`), which get their shapes from a first forward."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Part, Task

#: Examples of the forward pass.
_EXAMPLES = 2


def make_model(task: Task, params: Mapping[str, Any], part: Part) -> nn.Module:
    """Return a task's model; lazy layers take their shapes from the first examples of `part`.

    On the CPU, where other models get their weights too: a seed gives the same ones everywhere.
    """
    model = task.model(params)
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"{type(task).__name__}.model() must return a torch.nn.Module, not a "
            f"{type(model).__name__}"
        )
    if any(is_lazy(one) for one in chain(model.parameters(), model.buffers())):
        training = model.training
        with torch.no_grad():
            model.eval()(_first(part).cpu())
        model.train(training)
    return model


def _first(part: Part) -> Tensor:
    if isinstance(part, tuple):
        return part[0][:_EXAMPLES]  # type: ignore[no-any-return]
    with torch.random.fork_rng(devices=[]):  # a loader draws a seed for its workers
        x: Tensor = next(iter(part))[0]
    return x[:_EXAMPLES]
