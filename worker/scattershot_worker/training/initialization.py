"""A fresh model: lazy layers get their shapes, weights the distribution that `init` names.

Notes: "Weight Initialization" in neural-networks-2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Part, Task

#: Examples of the forward pass that lazy layers get their shapes from.
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
    if any(is_lazy(tensor) for tensor in chain(model.parameters(), model.buffers())):
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


def _he(weight: Tensor) -> None:
    """Draw for ReLU: deviation sqrt(2 / inputs) (He et al. 2015)."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def _xavier(weight: Tensor) -> None:
    """Draw for tanh: variance 2 / (inputs + outputs) (Glorot and Bengio 2010)."""
    nn.init.xavier_normal_(weight)


def _normal(weight: Tensor) -> None:
    """Draw small numbers of deviation 0.01, which only shallow networks can learn from."""
    nn.init.normal_(weight, std=0.01)


INITIALIZATIONS: dict[str, Callable[[Tensor], None]] = {
    "he": _he,
    "xavier": _xavier,
    "normal": _normal,
}
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def initialize(model: nn.Module, name: str) -> None:
    """Draw the weights of linear and convolutional layers anew, and set their biases to zero.

    Raises KeyError for a name that is none of `INITIALIZATIONS`.
    """
    draw = INITIALIZATIONS[name]
    for module in model.modules():
        if isinstance(module, _LAYERS):
            draw(module.weight)
            if module.bias is not None:
                module.bias.zero_()
