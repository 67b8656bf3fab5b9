"""Owns the metrics of the training part, and the losses that a training begins with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from scattershot_common.task.task import Task
from scattershot_worker.monitors import sampling
from scattershot_worker.monitors.updates import rounded
from scattershot_worker.training.outputs import uninformed


def some(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the examples of a batch that are kept for metrics: all, unless outputs are huge."""
    size = len(outputs)
    count = sampling.kept(size, outputs.numel() // max(size, 1))
    if count == size:
        return outputs.detach(), targets
    return outputs.detach()[:count].clone(), targets[:count].clone()


def of_training(task: Task, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the task's metrics of outputs [B, …] and targets that training saw: "train_accuracy".

    Nothing where the task has none for them: they were made for the validation part.
    """
    if not batches:
        return {}
    outputs, targets = map(torch.cat, zip(*batches, strict=True))
    if outputs.is_floating_point():
        outputs = outputs.float()  # of autocast
    own = type(task).metrics is not Task.metrics
    with suppress(Exception), torch.random.fork_rng(devices=(), enabled=own):
        found = task.metrics(outputs, targets)
        return {
            f"train_{name}": rounded(float(one)) for name, one in found.items() if name != "loss"
        }
    return {}


def begun(
    task: Task, first: float, outputs: Tensor, targets: Tensor, size: int
) -> dict[str, float]:
    """Return "initial_loss", that of the first step, and the "chance_loss" of knowing nothing.

    The latter is what the task declares, else that of its default loss, by outputs [N, …] and
    targets of the validation part: ln C for C classes; for numbers the variance, what their mean
    costs. Of any other loss it is that of `uninformed` outputs in a batch of `size`, unless the
    model begins with half of it or less: then it is something else.
    """
    found = {"initial_loss": rounded(first)}
    with suppress(Exception):
        chance = _chance(task, outputs, targets)
        if chance is None:
            first_ones, y = outputs[:size], targets[:size]
            chance = float(task.loss(uninformed(first_ones, y), y))
            if not 0 < chance < 2 * first:
                return found
        found["chance_loss"] = rounded(float(chance))
    return found


def _chance(task: Task, outputs: Tensor, targets: Tensor) -> float | None:
    plain = type(task).loss is Task.loss
    if type(task).initial_loss is not Task.initial_loss:
        whole = not targets.is_floating_point()
        declared = task.initial_loss(int(targets.max()) + 1 if whole else None)
        if declared is not None:
            return declared
    if plain and task.kind == "regression":
        flat = targets.float().flatten(1) if targets.dim() > 1 else targets.float().unsqueeze(1)
        return flat.var(0, correction=0).mean().item()
    if plain and outputs.dim() > 1 and outputs.shape[1] > 1:
        return math.log(outputs.shape[1])
    return None
