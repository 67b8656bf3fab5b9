"""Owns how what was seen of an epoch becomes its line of the layers' file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from scattershot_worker.monitors import first_layer_tiles, loss_noise, sampling, updates

#: What was seen of activations: a line for each.
Lines = list[dict[str, Any]]


def layers_line(
    epoch: int,
    weights: Iterable[Tensor],
    sizes: Sequence[updates.Sizes],
    counts: Mapping[str, list[int]],
    steps: Sequence[float],
    activations: Lines,
    before: Lines,
    examples: int,
) -> dict[str, Any]:
    """Return the line of an epoch that was looked at; see docs/diagnosis.md.

    `weights` are the model's parameters in its order, `steps` the losses of its steps, `before`
    the activations before its first one, if they were looked at, `examples` those validated on.
    """
    line: dict[str, Any] = {
        "epoch": epoch,
        "val_examples": examples,
        "noise": loss_noise.noise(steps),
        "parameters": [
            {**one.line(), **({"grads": counts[one.name]} if one.name in counts else {})}
            for one in sizes
        ],
        "activations": activations,
    }
    if before:
        line["initial_activations"] = before
    if sampling.pictured(epoch) and (tiles := first_layer_tiles.picture(weights)):
        line["picture"] = tiles
    return line
