"""Owns the watch over the lanes of a pack: the same figures as of trials that train alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from scattershot.task import Task
from scattershot_worker.fused.bank import Bank
from scattershot_worker.fused.program import LaneModel
from scattershot_worker.monitors import activations, sampling, updates
from scattershot_worker.monitors.lines import layers_line
from scattershot_worker.training import Training, scores


@dataclass(frozen=True)
class _Figures:
    """What was seen of all rows in an epoch: for each row, of each parameter or step."""

    norms: list[list[list[float]]]
    losses: list[list[float]]
    accuracies: list[float]


class LaneWatch:
    """Sees an epoch of all lanes: norms [slices, W] at one step, losses [W] at every step.

    What takes a look at all rows is done once for all of them, when the first lane asks.
    """

    def __init__(
        self,
        task: Task,
        model: LaneModel,
        bank: Bank,
        trainings: Iterable[Training],
        steps: int,
        size: int,
    ) -> None:
        """Be before an epoch of so many steps on batches of `size`, in which all of these train."""
        self._model, self._bank, self._layout, self._steps = model, bank, bank.layout, steps
        due = any(self._is_observed(one) for one in trainings)
        self._observed = sampling.observed_step(steps) if due else -1
        self._first = max(0, steps - sampling.tail(size))
        self._scored = scores(task)
        self._losses: list[Tensor] = []
        self._outputs: list[tuple[Tensor, Tensor]] = []
        self._norms: list[Tensor] = []
        self._before = self._grads = torch.zeros(0)
        self._figures: _Figures | None = None
        self._counts: dict[str, list[list[int]]] = {}
        self._activations: list[list[dict[str, Any]]] = []

    def _is_observed(self, training: Training) -> bool:
        return sampling.observed(training.epoch, training.budget, self._steps)

    def gradients(
        self,
        step: int,
        losses: Tensor,
        outputs: Tensor,
        y: Tensor,
        weights: Tensor,
        grads: Sequence[Tensor],
    ) -> None:
        """Look at a step, counted from 0, between its backward pass and clipping.

        Given are its losses [W], outputs and targets [W, B, …], the rows of the weights, and the
        gradients [W, …] of each parameter.
        """
        self._losses.append(losses.clone())  # a graph writes the next ones to the same place
        if self._scored and step >= self._first:
            self._outputs.append((outputs.clone(), y))
        if step == self._observed:
            # clipping changes gradients in place
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

    @torch.no_grad()
    def end_epoch(
        self, training: Training, row: int, x: Tensor, outputs: Tensor
    ) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Return what the epoch adds to a lane's history, and its line of the layers, if any.

        `x` are examples of the validation part, `outputs` those on all of it.
        """
        if self._figures is None:
            self._figures = self._read()
        due = self._figures.norms and self._is_observed(training)
        norms = self._figures.norms[row] if due else []
        sizes = [
            updates.Sizes(one.name, one.shape, *three)
            for one, three in zip(self._layout.slices, norms, strict=False)
        ]
        history = updates.scalars(sizes)
        if self._figures.accuracies:
            history["train_accuracy"] = updates.rounded(self._figures.accuracies[row])
        if not sampling.looked_at(training.epoch, training.budget):
            return history, None
        if not self._activations:
            self._activations = self._look(x[: activations.EXAMPLES])
            self._counts = self._count()
        seen = self._activations[row]
        history |= activations.scalars(seen)
        # rows have what decays first; a line has the model's order
        names = self._model.names
        sizes.sort(key=lambda one: names.index(one.name))
        counts = {name: rows[row] for name, rows in self._counts.items()}
        weights = self._bank.lane(row)
        steps = self._figures.losses[row]
        return history, layers_line(
            training, [weights[name] for name in names], sizes, counts, steps, seen, outputs
        )

    def _read(self) -> _Figures:
        """Return the figures of all rows, in one copy from the device."""
        norms = torch.stack(self._norms).permute(2, 1, 0).tolist() if self._norms else []
        accuracies: list[float] = []
        if self._outputs:
            outputs, y = (torch.cat(some, 1) for some in zip(*self._outputs, strict=True))
            if outputs.dim() == y.dim() + 1 == 3 and not y.is_floating_point():
                accuracies = (outputs.argmax(-1) == y).mean(1, dtype=torch.float32).tolist()
        return _Figures(norms, torch.stack(self._losses, 1).tolist(), accuracies)

    def _count(self) -> dict[str, list[list[int]]]:
        """Return the histograms of every row's gradient of each weight, by name."""
        counts: dict[str, list[list[int]]] = {}
        for one in self._layout.slices if len(self._grads) else ():
            if len(one.shape) > 1:
                some = updates.sample(self._grads[:, one.first : one.end])
                counts[one.name] = updates.histograms(some.flatten(), [some.shape[1]] * len(some))
        return counts

    def _look(self, x: Tensor) -> list[list[dict[str, Any]]]:
        """Return the activations' lines of every row."""
        watch, model = activations.Activations(), self._model
        width = len(self._losses[0])

        def forward(one: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
            with watch.watched(model.model, one):
                model.forward(one, x, [])
            return tuple(watch.figures())

        model.model.eval()
        try:
            figures = vmap(forward, in_dims=(0, None))(self._bank.lanes(width), x)
        finally:
            model.model.train()
        numbers = torch.stack(figures, 1).tolist() if figures else [[]] * width
        return [watch.lines(one) for one in numbers]
