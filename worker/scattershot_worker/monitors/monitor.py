"""Owns the watch over one trial that trains alone: what its epochs add to history and layers.

It changes no number of the training and draws no random one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from scattershot_worker.monitors import activations, metrics, sampling, updates
from scattershot_worker.monitors.layer_record import Lines, layers_line
from scattershot_worker.training.training import Training


class Monitor:
    """Sees the steps of a training; `history` and `layers` are what an epoch is reported with."""

    def __init__(self, training: Training) -> None:
        """Take a trial before its first epoch."""
        self._training = training
        trained = training.model.named_parameters()
        self._step = updates.Step({name: one for name, one in trained if one.requires_grad})
        self._activations = activations.Activations()
        self._tail = sampling.tail(training.batch_size)

    def begin_epoch(self, epoch: int, steps: int | None) -> None:
        """Be before the first of so many steps of an epoch; None where nobody knows how many."""
        known, budget = steps or sampling.CLOSE, self._training.budget
        self._close = sampling.looked_at(epoch, budget, known)
        self._look_before = sampling.looked_at_before(epoch, budget)
        self._step.begin_epoch(histograms=self._close and sampling.counted(epoch, budget))
        self._losses: list[Tensor] = []
        self._before: Lines = []
        self._outputs: deque[tuple[Tensor, Tensor]] = deque(maxlen=self._tail)
        self._observed = math.inf
        if self._close or sampling.observed(epoch, known):
            self._observed = sampling.observed_step(steps or 1)
        self._scored_from = max(0, (steps or 1) - self._tail)
        #: The first step that must be done by `step`; none before is looked at.
        self.first = 0 if self._close else min(self._observed, self._scored_from)

    def step(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Do the epoch's step `number`, counted from 0, and look at it; return its loss."""
        if number == 0 and self._look_before and isinstance(x, Tensor):
            self._before = self._looked_at(x[: activations.EXAMPLES])
        watch = self._step if number == self._observed else None
        loss = self._training.step(x, y, watch)
        if self._close:
            self._losses.append(loss)
        if number >= self._scored_from:
            outputs = self._training.outputs
            if outputs is not None:
                self._outputs.append(metrics.some(outputs, y))
        return loss

    @torch.no_grad()
    def _looked_at(self, x: Tensor) -> Lines:
        """Return the activations of examples, as an evaluation would see them."""
        model, device = self._training.model, x.device
        model.eval()
        devices = [device] if device.type == "cuda" else ()
        with torch.random.fork_rng(devices=devices), self._activations.watched(model):
            model(x)
        model.train()
        return self._activations.lines()

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Look at the activations of the first batch that the model sees in here."""
        if not self._close:
            yield
            return
        with self._activations.watched(self._training.model):
            yield

    @torch.no_grad()
    def end_epoch(
        self, outputs: Tensor, targets: Tensor
    ) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Return what the epoch adds to its line of the history, and its line of the layers.

        `outputs` [N, …] and `targets` are those of the validation part. The latter line is None
        at epochs that are not looked at closely.
        """
        training, sizes = self._training, self._step.sizes()
        history = {**metrics.of_training(training.task, self._outputs), **updates.scalars(sizes)}
        self._outputs.clear()
        if not self._close:
            return history, None
        seen, epoch = self._activations.lines(), training.epoch
        history |= activations.scalars(seen)
        steps = updates.read(self._losses)
        if epoch == 1 and steps:
            size = training.batch_size
            history |= metrics.begun(training.task, steps[0], outputs, targets, size)
        weights, counts = training.model.parameters(), self._step.counts()
        return history, layers_line(
            epoch, weights, sizes, counts, steps, seen, self._before, len(outputs)
        )
