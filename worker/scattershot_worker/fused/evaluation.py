"""Owns the evaluation of all lanes at once: metrics, outputs and targets, as `trainer` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scattershot_common.task.task import Part, Task
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.lane_storage import LaneStorage
from scattershot_worker.fused.op_trace import record
from scattershot_worker.fused.program import LaneModel
from scattershot_worker.training.data import EVALUATION_BATCH, tensors_of
from scattershot_worker.training.evaluation import Evaluation, metrics_of, predictions_of

Evaluations = dict[Lane, Evaluation]


class Evaluator:
    """Evaluates lanes of one signature; the forward pass is recorded for every shape it has."""

    def __init__(self, task: Task, model: LaneModel) -> None:
        self._task, self._model = task, model
        self._programs: dict[tuple[int, int], Callable[..., Tensor]] = {}

    @torch.no_grad()
    def evaluate(
        self,
        bank: LaneStorage,
        lanes: Sequence[Lane],
        part: Part,
        check: Callable[[], None],
        *,
        averaged: bool,
    ) -> Evaluations:
        """Return each lane's result, its tensors on the CPU.

        `averaged` takes the averaged weights. Lanes may be released in `check`.
        """
        x, y = tensors_of(part)
        width = max((lane.seat.row + 1 for lane in lanes if lane.seat is not None), default=0)
        tensors = bank.lanes(width, averaged=averaged)
        self._model.model.eval()
        try:
            outs = []
            for chunk in x.split(EVALUATION_BATCH):
                check()
                outs.append(self._outputs(width, tensors, chunk))
            outputs = torch.cat(outs, 1)
        finally:
            self._model.model.train()
        return _results(self._task, lanes, outputs, y)

    def _outputs(self, width: int, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        key, flat = (width, len(x)), [*tensors.values(), x]
        result: Tensor
        if program := self._programs.get(key):
            result = program(*flat)
            return result
        self._programs[key], result = record(self._model.outputs, flat, (tensors, x))
        return result


def _results(task: Task, lanes: Sequence[Lane], outputs: Tensor, y: Tensor) -> Evaluations:
    rest = _Plain.of(task, outputs, y)
    on_cpu, targets = outputs.cpu(), y.cpu()
    results: Evaluations = {}
    for lane in lanes:
        if lane.seat is None:
            continue
        row = lane.seat.row
        own = outputs[row]
        loss = rest.losses[row] if rest.losses else task.loss(own, y).item()
        more = (
            {"accuracy": rest.correct[row] / max(y.numel(), 1)}
            if rest.correct
            else metrics_of(task, own, y)
        )
        predictions = (
            predictions_of(task, on_cpu[row], targets)
            if rest.predictions is None
            else rest.predictions[row]
        )
        results[lane] = Evaluation({"loss": loss, **more}, on_cpu[row], targets, predictions)
    return results


@dataclass(frozen=True)
class _Plain:
    """What a classification task leaves as it is, of all rows at once; empty where it does not."""

    losses: list[float]
    correct: list[int]
    predictions: Tensor | None

    @classmethod
    def of(cls, task: Task, outputs: Tensor, y: Tensor) -> _Plain:
        """Return losses, right answers and probabilities [K, N, C] on the CPU."""
        kind = type(task)
        losses: list[float] = []
        correct: list[int] = []
        predictions = None
        plain = task.kind == "classification" and outputs.dim() == 3 and y.dim() == 1
        plain = plain and outputs.shape[-1] > 1 and not y.is_floating_point()
        if plain and y.numel() and y.min() >= 0 and y.max() < outputs.shape[-1]:
            # classes before examples: over a last dimension of a few the native kernel is slow
            logs = outputs.transpose(1, 2).contiguous().log_softmax(1)
            if kind.loss is Task.loss:
                index = y.expand(len(outputs), 1, -1)
                losses = logs.gather(1, index).squeeze(1).mean(1).neg_().tolist()
            if kind.metrics is Task.metrics:
                correct = (outputs.argmax(-1) == y).sum(1).tolist()
            if kind.predictions is Task.predictions:
                predictions = logs.exp_().transpose(1, 2).contiguous().cpu()
        return cls(losses, correct, predictions)
