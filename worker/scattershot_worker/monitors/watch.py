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

from scattershot_worker.monitors import activations, sampling, updates
from scattershot_worker.monitors.lines import layers_line
from scattershot_worker.training import Training, scores


class Watch:
    """Sees the steps of a training; `history` and `layers` are what an epoch is reported with."""

    def __init__(self, training: Training) -> None:
        """Take a trial before its first epoch."""
        self._training = training
        trained = training.model.named_parameters()
        self._step = updates.Step({name: one for name, one in trained if one.requires_grad})
        self._scored = scores(training.task)
        self._activations = activations.Activations()
        self._tail = sampling.tail(training.batch_size)

    def begin_epoch(self, epoch: int, steps: int | None) -> None:
        """Be before the first of so many steps of an epoch; None where nobody knows how many."""
        known = steps or sampling.CLOSE
        self._close = sampling.looked_at(epoch, self._training.budget, known)
        self._step.begin_epoch(histograms=self._close)
        self._losses: list[Tensor] = []
        self._outputs: deque[tuple[Tensor, Tensor]] = deque(maxlen=self._tail)
        self._observed = self._scored_from = math.inf
        if self._close or sampling.observed(epoch, known):
            self._observed = sampling.observed_step(steps or 1)
        if self._scored:
            self._scored_from = max(0, (steps or 1) - self._tail)
        #: The first step that must be done by `step`; none before is looked at.
        self.first = 0 if self._close else min(self._observed, self._scored_from)

    def step(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Do the epoch's step `number`, counted from 0, and look at it; return its loss."""
        watch = self._step if number == self._observed else None
        loss = self._training.step(x, y, watch)
        if self._close:
            self._losses.append(loss)
        if number >= self._scored_from:
            outputs = self._training.outputs
            if outputs is not None:
                self._outputs.append((outputs.detach(), y))
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
        sizes = self._step.sizes()
        history = {**self._accuracy(), **updates.scalars(sizes)}
        if not self._close:
            return history, None
        seen = self._activations.lines()
        history |= activations.scalars(seen)
        steps = updates.read(self._losses)
        counts = self._step.counts()
        return history, layers_line(
            self._training, self._training.model.parameters(), sizes, counts, steps, seen, outputs
        )

    def _accuracy(self) -> dict[str, float]:
        if not self._outputs:
            return {}
        outputs, targets = map(torch.cat, zip(*self._outputs, strict=True))
        self._outputs.clear()
        if outputs.dim() != targets.dim() + 1 or targets.is_floating_point():
            return {}
        found = self._training.task.metrics(outputs, targets)
        return {"train_accuracy": updates.rounded(found["accuracy"])}
