"""Owns the look at a model with one output for each target, which default metrics take as a logit.

Of a model that ends in a sigmoid it is a probability, and every one would count as class 1.
"""

from __future__ import annotations

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


def takes_logits(task: Task) -> bool:
    """Return whether the task leaves it to the default metrics what one output means."""
    own_loss = type(task).loss is not Task.loss
    return task.kind == "classification" and own_loss and type(task).metrics is Task.metrics


def is_sigmoid(outputs: Tensor) -> bool:
    """Return whether outputs that were made with their graph come from a sigmoid."""
    node = outputs.grad_fn
    while node is not None and node.name().startswith(_RESHAPE):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("Sigmoid")


def last_is_sigmoid(called: list[str]) -> bool:
    """Return whether the last of the functions called, by name, that computes is a sigmoid."""
    return next((one for one in reversed(called) if one not in _RESHAPES), "") == "sigmoid"


def refuse_probabilities(outputs: Tensor, targets: Tensor) -> None:
    """Raise TaskError where one output for each target is a probability."""
    if outputs.numel() == targets.numel() and is_sigmoid(outputs):
        raise TaskError(
            "the model ends in a sigmoid, but metrics() takes one output for each target as a "
            "logit: override metrics(), or leave the sigmoid out and let loss() be "
            "binary_cross_entropy_with_logits"
        )
