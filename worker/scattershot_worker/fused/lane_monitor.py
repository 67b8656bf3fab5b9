"""The monitor of a pack's lanes: the same history and layer records as of trials alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vmap

from scattershot_common.task.task import Task
from scattershot_worker.fused.lane_storage import LaneStorage
from scattershot_worker.fused.op_trace import trace
from scattershot_worker.fused.program import LaneModel
from scattershot_worker.monitors import activations, metrics, sampling, updates
from scattershot_worker.monitors.activations import ActivationRecord, Activations
from scattershot_worker.monitors.layer_record import LayerRecord, layer_record
from scattershot_worker.training.evaluation import Evaluation
from scattershot_worker.training.training import Training


class LaneActivations:
    """Activations of all lanes by one forward pass, which is traced for each of its shapes.

    Observing through `vmap` each time would cost more than the steps of a small network do.
    """

    def __init__(self, model: LaneModel) -> None:
        self._model, self.names = model, model.names
        self._programs: dict[tuple[int, ...], tuple[Callable[..., Tensor], Activations]] = {}

    @torch.no_grad()
    def records(self, tensors: dict[str, Tensor], x: Tensor) -> list[list[ActivationRecord]]:
        """Return each lane's records; tensors are [W, …], examples x [W, N, …]."""
        key, flat = tuple(x.shape), [*tensors.values(), x]
        self._model.model.eval()
        try:
            if traced := self._programs.get(key):
                program, observed = traced
                scalars = program(*flat)
            else:
                observed = Activations()
                program, scalars = trace(self._scalars(observed), flat, (tensors, x))
                self._programs[key] = program, observed
        finally:
            self._model.model.train()
        return [observed.records(row) for row in scalars.tolist()]

    def _scalars(self, observed: Activations) -> Callable[..., Tensor]:
        def forward(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            with observed.observe(self._model.model, tensors):
                self._model.forward(tensors, x, [])
            scalars = observed.scalars()
            return torch.stack(scalars) if scalars else x.new_zeros(0)

        return vmap(forward)


@dataclass(frozen=True)
class _Values:
    """Values of all rows in an epoch, read from the device: for each row, parameter or step."""

    norms: list[list[list[float]]]
    losses: list[list[float]]
    metrics: list[dict[str, float]]


class LaneMonitor:
    """Observes an epoch of all lanes: norms [slices, W] at one step, losses [W] at every step.

    What is computed for all rows is computed once, when the first lane's epoch ends.
    """

    def __init__(
        self,
        task: Task,
        lane_activations: LaneActivations,
        storage: LaneStorage,
        trainings: Iterable[Training],
        steps: int,
        size: int,
    ) -> None:
        """Start an epoch of `steps` steps on batches of `size`, in which all of these train."""
        self._task, self._lane_activations = task, lane_activations
        self._storage, self._layout = storage, storage.layout
        trainings = [*trainings]
        #: The hooks of each row's trial; rows behind them are idle.
        self._hooks = [training.hooks for training in trainings]
        #: The trials whose layers are recorded after this epoch, those of them whose activations
        #: are recorded before it or that have histograms, and all whose update is observed.
        self._recorded, self._initial, self._with_histograms = (set[Training]() for _ in range(3))
        self._observed = set[Training]()
        for training in trainings:
            epoch, budget = training.epoch, training.budget
            if sampling.is_recorded(epoch, budget, steps):
                self._recorded.add(training)
                if sampling.records_initial_activations(epoch, budget):
                    self._initial.add(training)
                if sampling.has_histograms(epoch, budget):
                    self._with_histograms.add(training)
            elif sampling.is_observed(epoch, steps):
                self._observed.add(training)
        self._observed |= self._recorded
        self._any_recorded = bool(self._recorded)
        self._observed_step = sampling.observed_step(steps) if self._observed else steps
        self._scored_from = max(0, steps - sampling.scored_batches(size))
        #: The first step that must be passed to `gradients` and `updated`.
        self.first = 0 if self._any_recorded else min(self._scored_from, self._observed_step)
        self._losses: list[Tensor] = []
        self._outputs: list[tuple[Tensor, Tensor]] = []
        self._norms: list[Tensor] = []
        self._weights = self._grads = torch.zeros(0)
        self._values: _Values | None = None
        self._histograms: dict[str, list[list[int]]] = {}
        self._activations: list[list[ActivationRecord]] = []
        self._initial_activations: list[list[ActivationRecord]] = []

    def begin(self, x: Tensor) -> None:
        """Observe the activations on the first batch x [W, B, …], before the first step."""
        if self._initial:
            tensors, x = self._storage.stacked_tensors(len(x)), x[:, : activations.EXAMPLES]
            self._initial_activations = self._lane_activations.records(tensors, x)

    def gradients(
        self,
        step: int,
        losses: Tensor,
        outputs: Tensor,
        y: Tensor,
        weights: Tensor,
        grads: Sequence[Tensor],
    ) -> None:
        """Observe a step, counted from 0, between its backward pass and clipping.

        Takes its losses [W], outputs and targets [W, B, …], the rows of the weights, and the
        gradients [W, …] of each parameter.
        """
        if self._any_recorded:
            self._losses.append(losses.clone())  # a graph overwrites them in the next step
        if step >= self._scored_from:
            self._outputs.append((outputs.clone(), y))
        if step == self._observed_step:
            flat, self._weights = [grad.flatten(1) for grad in grads], weights.clone()
            self._norms = [_norms(flat), self._slice_norms(self._weights)]
            if self._with_histograms:
                self._grads = torch.cat(flat, 1)  # a copy: clipping changes gradients in place

    def updated(self, step: int, weights: Tensor) -> None:
        """Observe the step after the update."""
        if step == self._observed_step:
            self._norms.append(self._slice_norms(weights - self._weights))

    def _slice_norms(self, rows: Tensor) -> Tensor:
        return _norms([rows[:, part.first : part.end] for part in self._layout.slices])

    @torch.no_grad()
    def end_epoch(
        self, training: Training, row: int, x: Tensor, evaluation: Evaluation
    ) -> tuple[dict[str, float], LayerRecord | None]:
        """Return what the epoch adds to a lane's history, and its layer record, if it has one.

        `x` are examples of the validation part, `evaluation` is the lane's on all of it.
        """
        if self._values is None:
            self._values = self._read()
        values = self._values
        rows = values.norms[row] if values.norms and training in self._observed else []
        norms = [
            updates.Norms(part.name, part.shape, *three)
            for part, three in zip(self._layout.slices, rows, strict=False)
        ]
        history = updates.scalars(norms)
        if values.metrics:
            history |= values.metrics[row]
        if training not in self._recorded:
            return history, None
        losses, epoch = values.losses[row], training.epoch
        if not self._activations:
            x = x[: activations.EXAMPLES]
            width = len(self._losses[0])  # losses are kept in every epoch that is recorded
            tensors = self._storage.stacked_tensors(width)
            self._activations = self._lane_activations.records(tensors, x.expand(width, *x.shape))
            self._histograms = self._count_gradients()
        records = self._activations[row]
        history |= activations.worst_shares(records)
        if epoch == 1:
            on_val, size = (evaluation.outputs, evaluation.targets), training.batch_size
            history |= metrics.initial_losses(training.hooks, losses[0], *on_val, size)
        initial = self._initial_activations[row] if training in self._initial else []
        # rows begin with the parameters that decay; a record has the model's order
        names = self._lane_activations.names
        norms.sort(key=lambda norm: names.index(norm.name))
        all_histograms = self._histograms if training in self._with_histograms else {}
        histograms = {name: of_rows[row] for name, of_rows in all_histograms.items()}
        weights = self._storage.tensors(row)
        return history, layer_record(
            epoch,
            (weights[name] for name in names),
            norms,
            histograms,
            losses,
            records,
            initial,
            len(evaluation.outputs),
        )

    def _read(self) -> _Values:
        """Return the values of all rows, in one copy from the device."""
        norms = torch.stack(self._norms).permute(2, 1, 0).tolist() if self._norms else []
        losses = torch.stack(self._losses, 1).tolist() if self._losses else []
        return _Values(norms, losses, self._training_metrics())

    def _training_metrics(self) -> list[dict[str, float]]:
        """Return the training part's metrics of every row."""
        if not self._outputs:
            return []
        outputs, y = self._outputs[0]
        default = self._task.kind == "classification" and type(self._task).metrics is Task.metrics
        if default and outputs.dim() == y.dim() + 1 == 3 and outputs.shape[-1] > 1:
            # batch by batch and by numpy, whose argmax takes half the time
            correct = sum(
                (outputs.cpu().numpy().argmax(-1) == y.cpu().numpy()).sum(1)
                for outputs, y in self._outputs
            )
            shares = (correct / sum(y.shape[1] for _, y in self._outputs)).tolist()
            return [{"train_accuracy": updates.rounded(share)} for share in shares]
        return [
            metrics.training_metrics(
                hooks, [(outputs[row], y[row]) for outputs, y in self._outputs]
            )
            for row, hooks in enumerate(self._hooks)
        ]

    def _count_gradients(self) -> dict[str, list[list[int]]]:
        """Return the histograms of every row's gradient of each weight, by name."""
        counts: dict[str, list[list[int]]] = {}
        for part in self._layout.slices if len(self._grads) else ():
            if len(part.shape) > 1:
                sample = updates.sample(self._grads[:, part.first : part.end], part.shape[0])
                lengths = [sample.shape[1]] * len(sample)
                counts[part.name] = updates.histograms(sample.flatten(), lengths)
        return counts


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the L2 norms [P, W] of the rows of P tensors [W, …]."""
    return torch.stack([torch.linalg.vector_norm(tensor, dim=1) for tensor in tensors])
