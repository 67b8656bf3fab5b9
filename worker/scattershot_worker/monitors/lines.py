"""Owns how what was seen of an epoch becomes its line of the layers' file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from scattershot.task import Task
from scattershot_worker.monitors import losses, pictures, sampling, updates
from scattershot_worker.training import Training


def layers_line(
    training: Training,
    weights: Iterable[Tensor],
    sizes: Sequence[updates.Sizes],
    counts: Mapping[str, list[int]],
    steps: Sequence[float],
    activations: list[dict[str, Any]],
    outputs: Tensor,
) -> dict[str, Any]:
    """Return the line of the epoch that `training` has trained; see docs/diagnosis.md.

    `weights` are the model's parameters in its order, `steps` the losses of its steps, `outputs`
    [N, …] those on the validation part.
    """
    epoch = training.epoch
    line: dict[str, Any] = {
        "epoch": epoch,
        "val_examples": len(outputs),
        **losses.line(steps),
        "parameters": [
            {**one.line(), **({"grads": counts[one.name]} if one.name in counts else {})}
            for one in sizes
        ],
        "activations": activations,
    }
    if sampling.pictured(epoch, training.budget):
        line["picture"] = pictures.picture(weights)
    if epoch == 1 and steps:
        line["initial_loss"] = updates.rounded(steps[0])
        # the loss that knows nothing: ln C for cross-entropy over C classes
        plain = training.task.kind == "classification" and type(training.task).loss is Task.loss
        if plain and outputs.dim() > 1:
            line["chance_loss"] = updates.rounded(math.log(outputs.shape[1]))
    return line
