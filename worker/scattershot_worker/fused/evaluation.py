"""Owns the evaluation of all lanes at once: metrics, outputs and targets, as `trainer` has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from scattershot.task import Part, Task
from scattershot_worker.fused.bank import Bank
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.program import LaneModel
from scattershot_worker.trainer import EVALUATION_BATCH, tensors_of

Results = dict[Lane, tuple[dict[str, float], Tensor, Tensor]]


@torch.no_grad()
def evaluate_lanes(
    task: Task,
    model: LaneModel,
    bank: Bank,
    lanes: Sequence[Lane],
    part: Part,
    check: Callable[[], None],
    *,
    averaged: bool,
) -> Results:
    """Return each lane's metrics, outputs [N, …] and targets on the CPU.

    `averaged` takes the averaged weights. Lanes may be released in `check`.
    """
    x, y = tensors_of(part)
    rows = bank.averages if averaged else bank.weights
    width = max((lane.seat.row + 1 for lane in lanes if lane.seat is not None), default=0)
    tensors = bank.layout.views(rows[:width])
    tensors |= {name: stack[:width] for name, stack in bank.stacks.items()}
    evaluator = model.evaluator()
    model.model.eval()
    try:
        outs = []
        for chunk in x.split(EVALUATION_BATCH):
            check()
            outs.append(evaluator(tensors, chunk))
        outputs = torch.cat(outs, 1)
    finally:
        model.model.train()
    losses, correct = _batched(task, outputs, y)
    results: Results = {}
    on_cpu, targets = outputs.cpu(), y.cpu()
    for lane in lanes:
        if lane.seat is None:
            continue
        row = lane.seat.row
        loss = losses[row] if losses else task.loss(outputs[row], y).item()
        more = (
            {"accuracy": correct[row] / max(y.numel(), 1)}
            if correct
            else task.metrics(outputs[row], y)
        )
        results[lane] = ({"loss": loss, **more}, on_cpu[row], targets)
    return results


def _batched(task: Task, outputs: Tensor, y: Tensor) -> tuple[list[float], list[int]]:
    """Return losses and right answers of all rows where the task has left them as they are."""
    kind = type(task)
    plain = task.kind == "classification" and outputs.dim() == 3 and y.dim() == 1
    losses: list[float] = []
    correct: list[int] = []
    if plain and kind.loss is Task.loss:
        classes = y.expand(len(outputs), -1)
        each = F.cross_entropy(outputs.flatten(0, 1), classes.flatten(), reduction="none")
        losses = each.view(classes.shape).mean(1).tolist()
    if plain and kind.metrics is Task.metrics:
        correct = (outputs.argmax(-1) == y).sum(1).tolist()
    return losses, correct
