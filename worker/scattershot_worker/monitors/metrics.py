"""Metrics of the training part, the losses that a training begins with, and machine usage."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from scattershot_common.task.task import Task
from scattershot_worker.monitors import sampling
from scattershot_worker.monitors.updates import rounded
from scattershot_worker.training.hooks import Hooks
from scattershot_worker.training.outputs import uninformed


def kept_outputs(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the examples of a batch that are kept for metrics: all, unless outputs are huge."""
    size = len(outputs)
    count = sampling.kept_examples(size, outputs.numel() // max(size, 1))
    if count == size:
        return outputs.detach(), targets
    return outputs.detach()[:count].clone(), targets[:count].clone()


def training_metrics(hooks: Hooks, batches: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the task's metrics on the last batches of an epoch, as "train_accuracy".

    `batches` are outputs [B, …] and targets. Empty where the task's metrics fail on them: they
    may be made for the validation part alone.
    """
    if not batches:
        return {}
    outputs, targets = map(torch.cat, zip(*batches, strict=True))
    if outputs.is_floating_point():
        outputs = outputs.float()  # autocast's may be of half precision
    own = type(hooks.task).metrics is not Task.metrics
    with suppress(Exception), torch.random.fork_rng(devices=(), enabled=own):
        metrics = hooks.metrics(outputs, targets)
        return {
            f"train_{name}": rounded(float(value))
            for name, value in metrics.items()
            if name != "loss"
        }
    return {}


def initial_losses(
    hooks: Hooks, first: float, outputs: Tensor, targets: Tensor, size: int
) -> dict[str, float]:
    """Return "initial_loss", that of the first step, and the "chance_loss" of an untrained model.

    The latter is what the task declares, else that of its default loss, by outputs [N, …] and
    targets of the validation part: ln C for C classes; for a regression the variance, the loss of
    predicting the mean. Of any other loss it is that of `uninformed` outputs in a batch of `size`,
    unless the first step's loss is at most half of it: then it is no loss by chance.
    """
    losses = {"initial_loss": rounded(first)}
    with suppress(Exception):
        chance = _chance(hooks, outputs, targets)
        if chance is None:
            batch, y = outputs[:size], targets[:size]
            chance = float(hooks.loss(uninformed(batch, y), y))
            if not 0 < chance < 2 * first:
                return losses
        losses["chance_loss"] = rounded(float(chance))
    return losses


def _chance(hooks: Hooks, outputs: Tensor, targets: Tensor) -> float | None:
    task = hooks.task
    default_loss = type(task).loss is Task.loss
    if type(task).initial_loss is not Task.initial_loss:
        integers = not targets.is_floating_point()
        declared = hooks.initial_loss(int(targets.max()) + 1 if integers else None)
        if declared is not None:
            return declared
    if default_loss and task.kind == "regression":
        flat = targets.float().flatten(1) if targets.dim() > 1 else targets.float().unsqueeze(1)
        return flat.var(0, correction=0).mean().item()
    if default_loss and outputs.dim() > 1 and outputs.shape[1] > 1:
        return math.log(outputs.shape[1])
    return None


def machine_usage(device: torch.device, examples: int, seconds: float) -> dict[str, float]:
    """Return "seconds" of an epoch, "examples_per_second" and "memory_mb".

    Memory is the maximum since the start of the process: the device's as torch counts it where
    that is a GPU, else the process's. No decision and no comparison reads these.
    """
    if device.type == "cuda":
        used = float(torch.cuda.max_memory_allocated(device))
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        used *= 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(seconds, 4),
        "examples_per_second": round(examples / max(seconds, 1e-9)),
        "memory_mb": round(used / 2**20),
    }
