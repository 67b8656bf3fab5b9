"""Evaluation of a model on a part of the data: metrics, and what is saved for ensembles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scattershot_common.errors import TaskError
from scattershot_common.task.classification import probabilities
from scattershot_common.task.task import Part, Task
from scattershot_worker.training.data import EMPTY, EVALUATION_BATCH, batches, is_tensors
from scattershot_worker.training.hooks import Hooks
from scattershot_worker.training.own_generators import OwnGenerators
from scattershot_worker.training.seeding import DATA_SEED, fixed_seed


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a part of N examples; all tensors are on the CPU.

    `outputs` [N, …] are the model's, `predictions` those that are saved for ensembles.
    """

    metrics: dict[str, float]
    outputs: Tensor
    targets: Tensor
    predictions: Tensor


@torch.no_grad()  # not inference_mode: what a model keeps for later could not be trained with
def evaluate(
    hooks: Hooks,
    model: nn.Module,
    part: Part,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Return how a model on `device` does on a part; `check` is called before every batch.

    Raises:
        TaskError: the part has no batches, or model or metrics return what they must not.
    """
    model.eval()
    outputs, targets = [], []
    # a loader that shuffles does so alike in all trials, whose predictions are averaged
    if not is_tensors(part):
        OwnGenerators(part).seed(DATA_SEED)
    with nullcontext() if is_tensors(part) else fixed_seed():
        for x, y in batches(part, EVALUATION_BATCH, device, None):
            check()
            outputs.append(one_tensor(model(x)))
            targets.append(y)
    if not targets:
        raise TaskError(EMPTY.format("validation"))
    all_outputs, all_targets = torch.cat(outputs), torch.cat(targets)
    metrics = {
        "loss": hooks.loss(all_outputs, all_targets).item(),
        **metrics_of(hooks, all_outputs, all_targets),
    }
    on_cpu = all_outputs.cpu(), all_targets.cpu()
    return Evaluation(metrics, *on_cpu, predictions_of(hooks, *on_cpu))


def one_tensor(outputs: Any) -> Tensor:
    """Return a model's outputs; raises TaskError unless they are one tensor."""
    if isinstance(outputs, Tensor):
        return outputs
    raise TaskError(
        f"the model must give one tensor for a batch, not a {type(outputs).__name__}: return what "
        "loss() and metrics() need as one, and take it apart there"
    )


def metrics_of(hooks: Hooks, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
    """Return the task's metrics; raises TaskError where they are no dict."""
    metrics = hooks.metrics(outputs, targets)
    if isinstance(metrics, Mapping):
        return metrics
    raise TaskError(
        f"{type(hooks.task).__name__}.metrics() must return a dict of name and number, not a "
        f"{type(metrics).__name__}"
    )


def predictions_of(hooks: Hooks, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what is saved for ensembles; the targets' shape tells which axis the classes are."""
    task = hooks.task
    if task.kind == "classification" and type(task).predictions is Task.predictions:
        own = type(task).metrics is not Task.metrics and outputs.numel() == targets.numel()
        if own and outputs.min() >= 0 and outputs.max() <= 1:
            return outputs  # of a sigmoid: default metrics refuse those
        return probabilities(outputs, targets, second=type(task).loss is Task.loss)
    return hooks.predictions(outputs)


def targets_of(task: Task, targets: Tensor) -> Tensor:
    """Return the targets saved beside predictions, where integers stand for classes."""
    whole = task.kind == "regression" and not targets.is_floating_point()
    return targets.double() if whole else targets
