"""The monitor of a trial that trains alone: what its epochs add to history and layer records.

It changes no number of the training and draws no random one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from scattershot_worker.monitors import activations, metrics, sampling, updates
from scattershot_worker.monitors.activations import ActivationRecord, Activations
from scattershot_worker.monitors.layer_record import LayerRecord, layer_record
from scattershot_worker.training.training import Training


class Monitor:
    """Observes the steps of a training; `end_epoch` returns what an epoch is reported with."""

    def __init__(self, training: Training) -> None:
        """Take a trial before its first epoch."""
        self._training = training
        parameters = training.model.named_parameters()
        self._updates = updates.UpdateMonitor({n: p for n, p in parameters if p.requires_grad})
        self._activations = Activations()
        self._scored_batches = sampling.scored_batches(training.batch_size)

    def begin_epoch(self, epoch: int, steps: int | None) -> None:
        """Start an epoch that has `steps` steps; None where their number is not known."""
        known, budget = steps or sampling.STEPS_PER_RECORD, self._training.budget
        self._recorded = sampling.is_recorded(epoch, budget, known)
        self._records_initial = sampling.records_initial_activations(epoch, budget)
        with_histograms = self._recorded and sampling.has_histograms(epoch, budget)
        self._updates.begin_epoch(with_histograms=with_histograms)
        self._losses: list[Tensor] = []
        self._initial_activations: list[ActivationRecord] = []
        self._outputs: deque[tuple[Tensor, Tensor]] = deque(maxlen=self._scored_batches)
        self._observed_step = math.inf
        if self._recorded or sampling.is_observed(epoch, known):
            self._observed_step = sampling.observed_step(steps or 1)
        self._scored_from = max(0, (steps or 1) - self._scored_batches)
        #: The first step that must be done by `step`; none before it is observed.
        self.first = 0 if self._recorded else min(self._observed_step, self._scored_from)

    def step(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Do the epoch's step `number`, counted from 0, and observe it; return its loss."""
        if number == 0 and self._records_initial and isinstance(x, Tensor):
            self._initial_activations = self._activations_on(x[: activations.EXAMPLES])
        watch = self._updates if number == self._observed_step else None
        loss = self._training.step(x, y, watch)
        if self._recorded:
            self._losses.append(loss)
        if number >= self._scored_from:
            outputs = self._training.outputs
            if outputs is not None:
                self._outputs.append(metrics.kept_outputs(outputs, y))
        return loss

    @torch.no_grad()
    def _activations_on(self, x: Tensor) -> list[ActivationRecord]:
        """Return the activations on examples, in evaluation mode."""
        model, device = self._training.model, x.device
        model.eval()
        devices = [device] if device.type == "cuda" else ()
        with torch.random.fork_rng(devices=devices), self._activations.observe(model):
            model(x)
        model.train()
        return self._activations.records()

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Observe the activations on the first batch that the model is given within."""
        if not self._recorded:
            yield
            return
        with self._activations.observe(self._training.model):
            yield

    @torch.no_grad()
    def end_epoch(
        self, outputs: Tensor, targets: Tensor
    ) -> tuple[dict[str, float], LayerRecord | None]:
        """Return what the epoch adds to its record in the history, and its layer record.

        `outputs` [N, …] and `targets` are those of the validation part. The layer record is None
        at epochs that have none.
        """
        training, norms = self._training, self._updates.norms()
        scores = metrics.training_metrics(training.hooks, self._outputs)
        history = {**scores, **updates.scalars(norms)}
        self._outputs.clear()
        if not self._recorded:
            return history, None
        records, epoch = self._activations.records(), training.epoch
        history |= activations.worst_shares(records)
        losses = updates.read_scalars(self._losses)
        if epoch == 1 and losses:
            size = training.batch_size
            history |= metrics.initial_losses(training.hooks, losses[0], outputs, targets, size)
        return history, layer_record(
            epoch,
            training.model.parameters(),
            norms,
            self._updates.histograms(),
            losses,
            records,
            self._initial_activations,
            len(outputs),
        )
