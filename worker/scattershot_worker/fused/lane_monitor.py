"""Owns the watch over the lanes of a pack: the same figures as of trials that train alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scattershot_common.task.task import Task
from scattershot_worker.fused.lane_activations import LaneActivations
from scattershot_worker.fused.lane_storage import LaneStorage
from scattershot_worker.monitors import activations, metrics, sampling, updates
from scattershot_worker.monitors.layer_record import Lines, layers_line
from scattershot_worker.training.evaluation import Evaluation
from scattershot_worker.training.training import Training


@dataclass(frozen=True)
class _Figures:
    """What was seen of all rows in an epoch: for each row, of each parameter or step."""

    norms: list[list[list[float]]]
    losses: list[list[float]]
    metrics: list[dict[str, float]]


class LaneMonitor:
    """Sees an epoch of all lanes: norms [slices, W] at one step, losses [W] at every step.

    What takes a look at all rows is done once for all of them, when the first lane asks.
    """

    def __init__(
        self,
        task: Task,
        looker: LaneActivations,
        bank: LaneStorage,
        trainings: Iterable[Training],
        steps: int,
        size: int,
    ) -> None:
        """Be before an epoch of so many steps on batches of `size`, in which all of these train."""
        self._task, self._looker = task, looker
        self._bank, self._layout = bank, bank.layout
        #: The trials that are looked at closely after this epoch, those of them that were before
        #: it or have histograms, and all whose update is observed.
        self._looked_at, self._first, self._counted = (set[Training]() for _ in range(3))
        self._due = set[Training]()
        for one in trainings:
            if sampling.looked_at(one.epoch, one.budget, steps):
                self._looked_at.add(one)
                if sampling.looked_at_before(one.epoch, one.budget):
                    self._first.add(one)
                if sampling.counted(one.epoch, one.budget):
                    self._counted.add(one)
            elif sampling.observed(one.epoch, steps):
                self._due.add(one)
        self._due |= self._looked_at
        self._close = bool(self._looked_at)
        self._observed = sampling.observed_step(steps) if self._due else steps
        self._scored_from = max(0, steps - sampling.tail(size))
        #: The first step that must be shown to `gradients` and `updated`.
        self.first = 0 if self._close else min(self._scored_from, self._observed)
        self._losses: list[Tensor] = []
        self._outputs: list[tuple[Tensor, Tensor]] = []
        self._norms: list[Tensor] = []
        self._before = self._grads = torch.zeros(0)
        self._figures: _Figures | None = None
        self._counts: dict[str, list[list[int]]] = {}
        self._activations: list[Lines] = []
        self._first_activations: list[Lines] = []

    def begin(self, x: Tensor) -> None:
        """Look at the activations on the first batch x [W, B, …], before the first step."""
        if self._first:
            tensors = self._bank.lanes(len(x))
            self._first_activations = self._looker.look(tensors, x[:, : activations.EXAMPLES])

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
        if self._close:
            self._losses.append(losses.clone())  # a graph writes the next ones to the same place
        if step >= self._scored_from:
            self._outputs.append((outputs.clone(), y))
        if step == self._observed:
            flat, self._before = [one.flatten(1) for one in grads], weights.clone()
            self._norms = [_norms(flat), self._of(self._before)]
            if self._counted:
                self._grads = torch.cat(flat, 1)  # a copy: clipping changes gradients in place

    def updated(self, step: int, weights: Tensor) -> None:
        """Look after the update."""
        if step == self._observed:
            self._norms.append(self._of(weights - self._before))

    def _of(self, rows: Tensor) -> Tensor:
        return _norms([rows[:, one.first : one.end] for one in self._layout.slices])

    @torch.no_grad()
    def end_epoch(
        self, training: Training, row: int, x: Tensor, evaluation: Evaluation
    ) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Return what the epoch adds to a lane's history, and its line of the layers, if any.

        `x` are examples of the validation part, `evaluation` what the lane came to on all of it.
        """
        if self._figures is None:
            self._figures = self._read()
        figures = self._figures
        norms = figures.norms[row] if figures.norms and training in self._due else []
        sizes = [
            updates.Sizes(one.name, one.shape, *three)
            for one, three in zip(self._layout.slices, norms, strict=False)
        ]
        history = updates.scalars(sizes)
        if figures.metrics:
            history |= figures.metrics[row]
        if training not in self._looked_at:
            return history, None
        steps, epoch = figures.losses[row], training.epoch
        if not self._activations:
            some = x[: activations.EXAMPLES]
            width = len(self._losses[0])  # in every epoch in which somebody is looked at
            tensors = self._bank.lanes(width)
            self._activations = self._looker.look(tensors, some.expand(width, *some.shape))
            self._counts = self._count()
        seen = self._activations[row]
        history |= activations.scalars(seen)
        if epoch == 1:
            on_val, size = (evaluation.outputs, evaluation.targets), training.batch_size
            history |= metrics.begun(self._task, steps[0], *on_val, size)
        before = self._first_activations[row] if training in self._first else []
        # rows have what decays first; a line has the model's order
        names = self._looker.names
        sizes.sort(key=lambda one: names.index(one.name))
        counted = self._counts if training in self._counted else {}
        counts = {name: rows[row] for name, rows in counted.items()}
        weights = self._bank.lane(row)
        return history, layers_line(
            epoch,
            (weights[name] for name in names),
            sizes,
            counts,
            steps,
            seen,
            before,
            len(evaluation.outputs),
        )

    def _read(self) -> _Figures:
        """Return the figures of all rows, in one copy from the device."""
        norms = torch.stack(self._norms).permute(2, 1, 0).tolist() if self._norms else []
        losses = torch.stack(self._losses, 1).tolist() if self._losses else []
        return _Figures(norms, losses, self._metrics())

    def _metrics(self) -> list[dict[str, float]]:
        """Return the training part's metrics of every row."""
        if not self._outputs:
            return []
        outputs, y = self._outputs[0]
        plain = self._task.kind == "classification" and type(self._task).metrics is Task.metrics
        if plain and outputs.dim() == y.dim() + 1 == 3 and outputs.shape[-1] > 1:
            # batch by batch and by numpy, whose argmax takes half the time
            correct = sum(
                (outputs.cpu().numpy().argmax(-1) == y.cpu().numpy()).sum(1)
                for outputs, y in self._outputs
            )
            shares = (correct / sum(y.shape[1] for _, y in self._outputs)).tolist()
            return [{"train_accuracy": updates.rounded(share)} for share in shares]
        return [
            metrics.of_training(
                self._task, [(outputs[row], y[row]) for outputs, y in self._outputs]
            )
            for row in range(len(outputs))
        ]

    def _count(self) -> dict[str, list[list[int]]]:
        """Return the histograms of every row's gradient of each weight, by name."""
        counts: dict[str, list[list[int]]] = {}
        for one in self._layout.slices if len(self._grads) else ():
            if len(one.shape) > 1:
                some = updates.sample(self._grads[:, one.first : one.end], one.shape[0])
                counts[one.name] = updates.histograms(some.flatten(), [some.shape[1]] * len(some))
        return counts


def _norms(parts: Sequence[Tensor]) -> Tensor:
    """Return the L2 norms [P, W] of the rows of P tensors [W, …]."""
    return torch.stack([torch.linalg.vector_norm(one, dim=1) for one in parts])
