"""Owns the watch over the lanes of a pack: the same figures as of trials that train alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scattershot_worker.fused.layout import Layout
from scattershot_worker.monitors import activations, sampling, updates
from scattershot_worker.monitors.lines import layers_line
from scattershot_worker.training import Training


class LaneWatch:
    """Sees an epoch of all lanes: norms [slices, W] at one step, losses [W] at every step."""

    def __init__(self, layout: Layout, steps: int) -> None:
        self._layout = layout
        self._observed = sampling.observed_step(steps)
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._before = self._grads = torch.zeros(0)
        self._figures: tuple[list[Any], list[Any]] | None = None

    def gradients(
        self, step: int, losses: Tensor, weights: Tensor, grads: Sequence[Tensor]
    ) -> None:
        """Look at a step, counted from 0, between its backward pass and clipping.

        `grads` are [W, …], of each parameter.
        """
        self._losses.append(losses.clone())  # a graph writes the next ones to the same place
        if step == self._observed:
            self._before, self._grads = weights.clone(), torch.cat([g.flatten(1) for g in grads], 1)
            self._norms = [self._of(self._grads), self._of(self._before)]

    def updated(self, step: int, weights: Tensor) -> None:
        """Look after the update."""
        if step == self._observed:
            self._norms.append(self._of(weights - self._before))

    def _of(self, rows: Tensor) -> Tensor:
        norms = [
            torch.linalg.vector_norm(rows[:, one.first : one.end], dim=1)
            for one in self._layout.slices
        ]
        return torch.stack(norms)

    def _lane(self, row: int) -> tuple[list[updates.Sizes], list[float]]:
        if self._figures is None:  # one copy for all lanes
            norms = torch.stack(self._norms).permute(2, 1, 0).tolist() if self._norms else []
            self._figures = norms, torch.stack(self._losses, 1).tolist()
        norms, losses = self._figures
        sizes = [
            updates.Sizes(one.name, one.shape, *three)
            for one, three in zip(self._layout.slices, norms[row] if norms else [], strict=False)
        ]
        return sizes, losses[row]

    @torch.no_grad()
    def end_epoch(
        self, training: Training, row: int, state: Any, x: Tensor, outputs: Tensor
    ) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Return what the epoch adds to a lane's history, and its line of the layers, if any.

        `state` is its model's by now, `x` a batch of validation examples, `outputs` those on all.
        """
        sizes, steps = self._lane(row)
        history = updates.scalars(sizes)
        if not sampling.looked_at(training.epoch, training.budget):
            return history, None
        training.model.load_state_dict(state)  # what trains lies in the rows; this is at hand
        watch = activations.Activations()
        training.model.eval()
        with watch.watched(training.model):
            training.model(x[: activations.EXAMPLES])
        training.model.train()
        seen = watch.lines()
        # rows have what decays first; a line has the model's order
        places = {name: at for at, (name, _) in enumerate(training.model.named_parameters())}
        sizes.sort(key=lambda one: places[one.name])
        history |= activations.scalars(seen)
        grads = self._grads[row]
        counts = {
            one.name: [int(c) for c in updates.histogram(one.of(grads)).tolist()]
            for one in self._layout.slices
            if len(one.shape) > 1
        }
        return history, layers_line(training, sizes, counts, steps, seen, outputs)
