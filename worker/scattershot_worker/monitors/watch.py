"""Owns the watch over one trial that trains alone: what its epochs add to history and layers.

It changes no number of the training and draws no random one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scattershot.task import Task
from scattershot_worker.monitors import activations, sampling, updates
from scattershot_worker.monitors.lines import layers_line
from scattershot_worker.training import Training

#: Training accuracy is that of the last so many examples of an epoch, at least.
_EXAMPLES = 256


class Watch:
    """Sees the steps of a training; `history` and `layers` are what an epoch is reported with."""

    def __init__(self, training: Training) -> None:
        """Take a trial before its first epoch."""
        self._training = training
        trained = training.model.named_parameters()
        self._parameters = {name: one for name, one in trained if one.requires_grad}
        # comparable with val_accuracy only where the task has not another notion of it
        task = training.task
        self._scored = task.kind == "classification" and type(task).metrics is Task.metrics
        self._activations = activations.Activations()

    def begin_epoch(self, epoch: int, steps: int) -> None:
        """Be before the first of so many steps of an epoch."""
        self._epoch, self._close = epoch, sampling.looked_at(epoch, self._training.budget)
        self._step: updates.Step | None = None
        self._observed = sampling.observed_step(steps)
        self._losses: list[Tensor] = []
        self._outputs: list[tuple[Tensor, Tensor]] = []
        tail = -(-_EXAMPLES // self._training.batch_size) + 1
        #: Before this step there is nothing to see but the first epochs' losses.
        self._first = 0 if self._close else max(0, min(self._observed, steps - tail))

    def step(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Do the epoch's step `number`, counted from 0, and look at it; return its loss."""
        if number < self._first:
            return self._training.step(x, y)
        watch = None
        if number == self._observed:
            watch = self._step = updates.Step(self._parameters, histograms=self._close)
        loss = self._training.step(x, y, watch)
        if self._close:
            self._losses.append(loss)
        outputs = self._training.outputs
        if self._scored and outputs is not None:
            self._outputs.append((outputs, y))
        return loss

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Look at the activations of the first batch that the model sees in here."""
        if not self._close:
            yield
            return
        with self._activations.watched(self._training.model):
            yield

    @torch.no_grad()
    def end_epoch(self, outputs: Tensor) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Return what the epoch adds to its line of the history, and its line of the layers.

        `outputs` [N, …] are those on the validation part.

        The latter is None at epochs that are not looked at closely.
        """
        sizes = self._step.sizes() if self._step else []
        history = {**self._accuracy(), **updates.scalars(sizes)}
        if not self._close:
            return history, None
        seen = self._activations.lines()
        history |= activations.scalars(seen)
        steps = torch.stack(self._losses).tolist() if self._losses else []
        counts = self._step.counts() if self._step else {}
        return history, layers_line(
            self._training, self._training.model.parameters(), sizes, counts, steps, seen, outputs
        )

    def _accuracy(self) -> dict[str, float]:
        if not self._outputs:
            return {}
        tail = -(-_EXAMPLES // max(len(self._outputs[0][1]), 1)) + 1
        outputs = torch.cat([outputs for outputs, _ in self._outputs[-tail:]])
        targets = torch.cat([targets for _, targets in self._outputs[-tail:]])
        self._outputs = []
        if outputs.dim() != targets.dim() + 1 or targets.is_floating_point():
            return {}
        right = (outputs.argmax(1) == targets).float().mean()
        return {"train_accuracy": updates.rounded(right.item())}
