"""What a model's outputs stand for: classes, a logit, a probability, nothing yet.

The default metrics take one output for each target as a logit. Of a model that ends in a sigmoid
it is a probability, and every example would count as class 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Task

#: Operations that leave values as they are, as autograd names them and as they are called.
_RESHAPE = (
    "View",
    "Unsafe",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Select",
    "Slice",
    "Alias",
    "ToCopy",
)
_RESHAPES = frozenset(
    ("view", "reshape", "flatten", "squeeze", "unsqueeze", "size", "dim", "numel")
)
#: Values between 0 and 1, or sums of 1, from this many on are taken for probabilities.
_ENOUGH = 8


def is_cross_entropy(task: Task) -> bool:
    """Return whether the loss is known to be cross-entropy: labels can be smoothed."""
    return task.kind == "classification" and type(task).loss is Task.loss


def takes_logits(task: Task) -> bool:
    """Return whether the default metrics decide what one output for each target means."""
    own_loss = type(task).loss is not Task.loss
    return task.kind == "classification" and own_loss and type(task).metrics is Task.metrics


def is_sigmoid(outputs: Tensor) -> bool:
    """Return whether outputs come from a sigmoid, by their autograd graph."""
    node = outputs.grad_fn
    while node is not None and node.name().startswith(_RESHAPE):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("Sigmoid")


def last_is_sigmoid(called: list[str]) -> bool:
    """Return whether the last of the functions called, by name, that computes is a sigmoid."""
    return next((name for name in reversed(called) if name not in _RESHAPES), "") == "sigmoid"


def refuse_probabilities(outputs: Tensor, targets: Tensor) -> None:
    """Raise TaskError where one output for each target is a probability."""
    if outputs.numel() == targets.numel() and is_sigmoid(outputs):
        raise TaskError(
            "the model ends in a sigmoid, but metrics() takes one output for each target as a "
            "logit: override metrics(), or leave the sigmoid out and let loss() be "
            "binary_cross_entropy_with_logits"
        )


def uninformed(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the outputs, shaped like these [N, …], of a model that has learned nothing.

    The same for every example: zeros, but for a model that ends in a log-softmax (ln 1/C), a
    softmax (1/C) or a sigmoid (1/2). Classes are the second axis.
    """
    if outputs.dim() > 1 and (classes := outputs.shape[1]) > 1:
        if _all_ones(outputs.logsumexp(1).exp()) and outputs.max() <= 0:
            return torch.full_like(outputs, -math.log(classes))
        if outputs.min() >= 0 and _all_ones(outputs.sum(1)):
            return torch.full_like(outputs, 1 / classes)
    enough = outputs.numel() == targets.numel() >= _ENOUGH
    if enough and outputs.min() >= 0 and outputs.max() <= 1 and outputs.max() > 0:
        return torch.full_like(outputs, 0.5)
    return torch.zeros_like(outputs)


def _all_ones(sums: Tensor) -> bool:
    """Return whether there are enough sums and all are 1."""
    return sums.numel() >= _ENOUGH and bool(((sums - 1).abs() < 1e-3).all())
