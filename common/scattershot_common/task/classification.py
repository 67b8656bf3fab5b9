"""Meaning of a classifier's outputs and targets by their shapes and types; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scattershot_common.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor

#: The target that cross-entropy ignores.
IGNORED = -100


def class_axis(outputs: Sequence[int], targets: Sequence[int], *, second: bool) -> int | None:
    """Return the axis of outputs that targets do not have, by their shapes: 1, -1, or None.

    Where both are possible, as with [8, 3, 3] and [8, 3], it is 1 if `second`.

    >>> class_axis((8, 3, 5, 5), (8, 5, 5), second=False)
    1
    >>> class_axis((8, 5, 3), (8, 5), second=True)
    -1
    """
    whole, rest = tuple(outputs), tuple(targets)
    if len(whole) != len(rest) + 1 or not rest:
        return None
    fitting = [axis for axis in (1, -1) if whole[:axis] + whole[axis:][1:] == rest]
    return (fitting[0] if second else fitting[-1]) if fitting else None


def labels(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets as torch's cross-entropy takes them, whose classes are the second axis.

    Integers of any type become int64, [N, 1] becomes [N].

    Raises:
        TaskError: cross-entropy cannot take them.
    """
    shapes = f"outputs {[*outputs.shape]}, targets {[*targets.shape]}"
    if outputs.dim() < 2 or outputs.shape[1] < 2:
        raise TaskError(
            f"cross-entropy needs an output for each class ({shapes}): let the model give 2 for 2 "
            "classes, or override loss(), as by binary_cross_entropy_with_logits"
        )
    if targets.is_floating_point():
        if targets.shape == outputs.shape:
            return targets.to(outputs.dtype)
        raise TaskError(
            f"the targets of a classification are class numbers, not {_type(targets)} ({shapes}): "
            'give y.long(), or say kind = "regression"'
        )
    if targets.dim() == outputs.dim() and targets.shape[1] == 1:
        targets = targets.squeeze(1)
    if (outputs.shape[0], *outputs.shape[2:]) != (*targets.shape,):
        raise TaskError(
            f"cross-entropy takes outputs [N, C, …] for targets [N, …] ({shapes}): let the model "
            "give its classes as the second axis, or override loss()"
        )
    return targets.long()


def paired(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return targets in the shape of the outputs; raises TaskError unless there are as many."""
    if outputs.numel() != targets.numel():
        raise TaskError(
            f"a regression needs an output for each target (outputs {[*outputs.shape]}, targets "
            f"{[*targets.shape]}): let the model give as many, or override loss() and metrics()"
        )
    return targets.reshape(outputs.shape)


def accuracy(outputs: Tensor, targets: Tensor, *, second: bool) -> float:
    """Return the fraction of targets that outputs predict; ignored targets are left out.

    Where there is one output for each target, it is the logit of the second of two classes.

    Raises:
        TaskError: their shapes do not fit each other.
    """
    axis = _axis(outputs, targets, second=second)
    if axis is None:
        correct = positive(outputs, targets) == (outputs.reshape(targets.shape) > 0)
        return int(correct.sum()) / max(correct.numel(), 1)
    if outputs.shape == targets.shape:
        targets = targets.argmax(axis)
    correct = outputs.argmax(axis).flatten() == targets.flatten()
    known = targets.flatten() != IGNORED
    return int((correct & known).sum()) / max(int(known.sum()), 1)


def probabilities(outputs: Tensor, targets: Tensor | None, *, second: bool) -> Tensor:
    """Return probabilities [N, …, C], or [N, …] of the second of two classes.

    Without targets, outputs of more than three axes have their classes second, as images do.
    """
    if targets is not None and outputs.numel() % max(targets.numel(), 1) == 0:
        axis = _axis(outputs, targets, second=second)
    elif outputs.dim() < 2 or outputs.shape[1] < 2:
        axis = None
    else:
        axis = 1 if outputs.dim() == 2 or second or outputs.dim() > 3 else -1
    return outputs.sigmoid() if axis is None else outputs.softmax(axis).movedim(axis, -1)


def _axis(outputs: Tensor, targets: Tensor, *, second: bool) -> int | None:
    """Return the axis of the classes; None where there is one output for each target."""
    if _distributions(outputs, targets):
        return 1
    if outputs.dim() == targets.dim() == 2 and targets.shape[1] == 1 < outputs.shape[1]:
        return 1
    axis = class_axis(outputs.shape, targets.shape, second=second)
    return None if axis is None or outputs.shape[axis] == 1 else axis


def positive(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return which targets are of the second of two classes: 0 and 1, or -1 and 1.

    Raises:
        TaskError: the targets have other values, or there is not one for each output.
    """
    shapes = f"outputs {[*outputs.shape]}, targets {[*targets.shape]}"
    if outputs.numel() != targets.numel():
        raise TaskError(
            f"metrics() cannot tell which outputs belong to which targets ({shapes}): override it"
        )
    if not targets.numel():
        return targets > 0
    low, high = targets.min().item(), targets.max().item()
    margins = low < 0 and bool((targets.abs() == 1).all())
    if not (margins or (low >= 0 and high <= 1)):
        raise TaskError(
            f"one output for each target tells two classes apart, 0 and 1 or -1 and 1, but the "
            f"targets go from {low:g} to {high:g} ({shapes}): give an output for each class, say "
            'kind = "regression", or override metrics()'
        )
    return targets > (0 if margins else 0.5)


def _distributions(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether targets are probabilities of the classes, as soft labels are."""
    if outputs.shape != targets.shape or targets.dim() < 2 or targets.shape[1] < 2:
        return False
    sums = targets.sum(1)
    return targets.is_floating_point() and bool(((sums - 1).abs() < 1e-3).all())


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
