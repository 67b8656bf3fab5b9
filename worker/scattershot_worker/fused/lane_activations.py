"""Owns the look at the activations of all lanes at once: one forward pass, recorded and replayed.

Looking through `vmap` costs more than the steps of a small network do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from scattershot_worker.fused.op_trace import record
from scattershot_worker.fused.program import LaneModel
from scattershot_worker.monitors.activations import Activations
from scattershot_worker.monitors.layer_record import Lines


class LaneActivations:
    """Looks at lanes of one model; a forward pass is recorded for every shape that it has."""

    def __init__(self, model: LaneModel) -> None:
        self._model, self.names = model, model.names
        self._programs: dict[tuple[int, ...], tuple[Callable[..., Tensor], Activations]] = {}

    @torch.no_grad()
    def look(self, tensors: dict[str, Tensor], x: Tensor) -> list[Lines]:
        """Return what is seen of each lane's activations; tensors [W, …], examples x [W, N, …]."""
        key, flat = tuple(x.shape), [*tensors.values(), x]
        self._model.model.eval()
        try:
            if known := self._programs.get(key):
                program, seen = known
                figures = program(*flat)
            else:
                seen = Activations()
                program, figures = record(self._all(seen), flat, (tensors, x))
                self._programs[key] = program, seen
        finally:
            self._model.model.train()
        return [seen.lines(one) for one in figures.tolist()]

    def _all(self, seen: Activations) -> Callable[..., Tensor]:
        def forward(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            with seen.watched(self._model.model, tensors):
                self._model.forward(tensors, x, [])
            figures = seen.figures()
            return torch.stack(figures) if figures else x.new_zeros(0)

        return vmap(forward)
