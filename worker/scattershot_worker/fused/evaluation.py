"""Evaluation of all lanes at once: metrics, outputs and targets as of a trial trained alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scattershot_common.task.task import Part, Task
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.lane_storage import LaneStorage
from scattershot_worker.fused.op_trace import trace
from scattershot_worker.fused.program import LaneModel
from scattershot_worker.training.data import EVALUATION_BATCH, tensors_of
from scattershot_worker.training.evaluation import Evaluation, metrics_of, predictions_of

Evaluations = dict[Lane, Evaluation]


class Evaluator:
    """Evaluates lanes of one signature; the forward pass is traced for each of its shapes."""

    def __init__(self, task: Task, model: LaneModel) -> None:
        self._task, self._model = task, model
        self._programs: dict[tuple[int, int], Callable[..., Tensor]] = {}

    @torch.no_grad()
    def evaluate(
        self,
        storage: LaneStorage,
        lanes: Sequence[Lane],
        part: Part,
        check: Callable[[], None],
        *,
        averaged: bool,
    ) -> Evaluations:
        """Return each lane's evaluation, its tensors on the CPU.

        `averaged` takes the averaged weights. `check` is called before every batch; lanes may be
        released in it.
        """
        x, y = tensors_of(part)
        width = max((lane.row.index + 1 for lane in lanes if lane.row is not None), default=0)
        tensors = storage.stacked_tensors(width, averaged=averaged)
        self._model.model.eval()
        try:
            batches = []
            for batch in x.split(EVALUATION_BATCH):
                check()
                batches.append(self._outputs(width, tensors, batch))
            outputs = torch.cat(batches, 1)
        finally:
            self._model.model.train()
        return _evaluations(self._task, lanes, outputs, y)

    def _outputs(self, width: int, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        key, flat = (width, len(x)), [*tensors.values(), x]
        result: Tensor
        if program := self._programs.get(key):
            result = program(*flat)
            return result
        self._programs[key], result = trace(self._model.outputs, flat, (tensors, x))
        return result


def _evaluations(task: Task, lanes: Sequence[Lane], outputs: Tensor, y: Tensor) -> Evaluations:
    defaults = _BatchedDefaults.of(task, outputs, y)
    on_cpu, targets = outputs.cpu(), y.cpu()
    evaluations: Evaluations = {}
    for lane in lanes:
        if lane.row is None:
            continue
        row, hooks = lane.row.index, lane.training.hooks
        loss = defaults.losses[row] if defaults.losses else hooks.loss(outputs[row], y).item()
        metrics = (
            {"accuracy": defaults.correct[row] / max(y.numel(), 1)}
            if defaults.correct
            else metrics_of(hooks, outputs[row], y)
        )
        predictions = (
            predictions_of(hooks, on_cpu[row], targets)
            if defaults.predictions is None
            else defaults.predictions[row]
        )
        evaluations[lane] = Evaluation({"loss": loss, **metrics}, on_cpu[row], targets, predictions)
    return evaluations


@dataclass(frozen=True)
class _BatchedDefaults:
    """Results of all rows at once, of what a classification task does not override; else empty."""

    losses: list[float]
    correct: list[int]
    predictions: Tensor | None

    @classmethod
    def of(cls, task: Task, outputs: Tensor, y: Tensor) -> _BatchedDefaults:
        """Return losses, counts of correct examples and probabilities [K, N, C] on the CPU."""
        kind = type(task)
        losses: list[float] = []
        correct: list[int] = []
        predictions = None
        applies = task.kind == "classification" and outputs.dim() == 3 and y.dim() == 1
        applies = applies and outputs.shape[-1] > 1 and not y.is_floating_point()
        if applies and y.numel() and y.min() >= 0 and y.max() < outputs.shape[-1]:
            # classes before examples: the native kernel is slow over a short last dimension
            logs = outputs.transpose(1, 2).contiguous().log_softmax(1)
            if kind.loss is Task.loss:
                index = y.expand(len(outputs), 1, -1)
                losses = logs.gather(1, index).squeeze(1).mean(1).neg_().tolist()
            if kind.metrics is Task.metrics:
                correct = (outputs.argmax(-1) == y).sum(1).tolist()
            if kind.predictions is Task.predictions:
                predictions = logs.exp_().transpose(1, 2).contiguous().cpu()
        return cls(losses, correct, predictions)
