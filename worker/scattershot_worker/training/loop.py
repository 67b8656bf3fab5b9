"""Owns the training loop of task classes: batches, evaluation, one report per epoch."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from scattershot_common.errors import TaskError
from scattershot_common.seeds import derive
from scattershot_common.task.task import Data, Part, Task
from scattershot_worker.attempt.trial_handle import TrialHandle, seed_everything
from scattershot_worker.monitors import machine
from scattershot_worker.monitors.monitor import Monitor
from scattershot_worker.training.make_model import make_model
from scattershot_worker.training.training import (
    Training,
    expected,
    measured,
    one_tensor,
    predicted,
    smooths,
)

#: Examples of a forward pass that is not trained on.
EVALUATION_BATCH = 1024
DATA_SEED = 0
EMPTY = "the {} part has no batches: with drop_last a loader has none of a part below its size"


@dataclass(frozen=True)
class _Moved:
    """A task's data as it lies on a device, kept from trial to trial."""

    task: Task
    device: torch.device
    data: Data


_kept: list[_Moved] = []


def train(task: Task, trial: TrialHandle) -> None:
    """Train one trial of `task` to its budget, reporting every epoch.

    Read from the hyperparameters besides what the task reads itself: those of
    `hyperparameters.Hyperparameters` and `optimizers.make_optimizer`. Data order, weights and
    dropout derive from the trial's seed and the epoch alone.
    """
    data = data_on(task, trial.device)
    training = training_of(
        task, trial.params, seed=trial.seed, budget=trial.budget, device=trial.device
    )
    watch = Monitor(training) if trial.monitors else None
    trial.patience = training.how.early_stopping
    for epoch in trial.epochs(**training.parts):
        started = time.perf_counter()
        training.begin_epoch(epoch, trial.history)
        loss, examples = train_epoch(training, data.train, trial.check, watch)
        with nullcontext() if watch is None else watch.evaluation():
            metrics, outputs, targets = evaluate(
                task, training.model, data.val, trial.device, trial.check
            )
        seen, layers = ({}, None) if watch is None else watch.end_epoch(outputs, targets)
        trial.report(
            {f"val_{name}": value for name, value in metrics.items()},
            train_loss=loss,
            lr=training.lr,
            **averaged(training, data.val, trial.check),
            **seen,
            **machine.scalars(trial.device, examples, time.perf_counter() - started),
            layers=layers,
            predictions=predicted(task, outputs, targets),
            targets=expected(task, targets),
        )


def training_of(
    task: Task, params: Mapping[str, Any], *, seed: int, budget: int, device: torch.device
) -> Training:
    """Return a trial freshly made; torch's generators must be seeded for it."""
    model = make_model(task, params, data_on(task, device).train)
    return Training(task, params, seed=seed, budget=budget, device=device, model=model)


def train_epoch(
    training: Training, part: Part, check: Callable[[], None], watch: Monitor | None = None
) -> tuple[Tensor, int]:
    """Train for the epoch that `training` has begun; return the mean loss and the examples seen.

    A `watch` looks on.
    """
    training.model.train()
    device, size = training.device, training.batch_size
    generator = torch.Generator().manual_seed(derive(training.seed, "order", training.epoch))
    total, seen = torch.zeros((), device=device), 0
    steps = steps_of(part, size) if training.how.moves else 1
    if watch is not None:
        watch.begin_epoch(training.epoch, steps if training.how.moves else _known_steps(part, size))
    for step, (x, y) in enumerate(batches(part, size, device, generator)):
        check()
        if training.how.moves:
            training.begin_step(min(step, steps - 1), steps)
        if watch is not None and step >= watch.first:
            loss = watch.step(step, x, y)
        else:
            loss = training.step(x, y)
        total += loss * len(y)
        seen += len(y)
    if not seen:
        raise TaskError(EMPTY.format("training"))
    return total / seen, seen


def averaged(training: Training, part: Part, check: Callable[[], None]) -> dict[str, float]:
    """Return the metrics of the averaged weights, as `val_accuracy_ema`, if there are any."""
    if training.ema is None:
        return {}
    with training.ema.in_place():
        metrics, _, _ = evaluate(training.task, training.model, part, training.device, check)
    return {f"val_{name}_ema": value for name, value in metrics.items()}


def steps_of(part: Part, size: int) -> int:
    """Return how many batches an epoch has, at least 1; raises TaskError where none can tell."""
    if is_tensors(part):
        return -(-len(part[0]) // size)
    try:
        return max(1, len(part))  # type: ignore[arg-type]
    except TypeError:
        raise TaskError(
            "a schedule needs to know how many batches an epoch has: give the loader a length, or "
            'schedule = "constant"'
        ) from None


def _known_steps(part: Part, size: int) -> int | None:
    try:
        return steps_of(part, size)
    except TaskError:
        return None


@torch.no_grad()  # not inference_mode: what a model keeps for later could not be trained with
def evaluate(
    task: Task,
    model: nn.Module,
    part: Part,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], Tensor, Tensor]:
    """Return the loss and metrics of a part, and its outputs [N, …] and targets on the CPU."""
    model.eval()
    outputs, targets = [], []
    # a loader that shuffles does so alike in all trials, whose predictions are averaged
    with nullcontext() if is_tensors(part) else fixed_seed():
        for x, y in batches(part, EVALUATION_BATCH, device, None):
            check()
            outputs.append(one_tensor(model(x)))
            targets.append(y)
    if not targets:
        raise TaskError(EMPTY.format("validation"))
    all_outputs, all_targets = torch.cat(outputs), torch.cat(targets)
    metrics = {
        "loss": task.loss(all_outputs, all_targets).item(),
        **measured(task, all_outputs, all_targets),
    }
    return metrics, all_outputs.cpu(), all_targets.cpu()


def is_tensors(part: Part) -> TypeGuard[tuple[Tensor, Tensor]]:
    """Return whether a part is an (x, y) pair of tensors rather than a loader."""
    return isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], Tensor)


def tensors_of(part: Part) -> tuple[Tensor, Tensor]:
    """Return a part that is known to be a pair of tensors."""
    if not is_tensors(part):
        raise TypeError("a loader is no pair of tensors")
    return part


def batches(
    part: Part, size: int, device: torch.device, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x, y) on `device`: shuffled by `generator`, in order without one.

    A loader brings its own batches; its shuffling follows torch's global seed, which is set for
    every epoch.
    """
    if not is_tensors(part):
        for batch in part:
            x, y = _pair(batch)
            yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        return
    x, y = part
    if generator is None:
        yield from zip(x.split(size), y.split(size), strict=True)
        return
    order = torch.randperm(len(x), generator=generator).to(device)
    for index in order.split(size):
        yield x.index_select(0, index), y.index_select(0, index)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return a loader's batch; x may be anything that can be moved, as a PackedSequence can."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and hasattr(batch[0], "to"):
        return batch[0], batch[1]
    raise TaskError(f"a loader must give pairs (x, y) of tensors, not {_kinds(batch)}")


def _kinds(found: object) -> str:
    """Return in words what came instead of a pair of tensors."""
    if not isinstance(found, (tuple, list)):
        return f"a {type(found).__name__}"
    return f"({', '.join(type(one).__name__ for one in found[:4])}{', …' * (len(found) > 4)})"


@contextmanager
def fixed_seed(seed: int = DATA_SEED) -> Iterator[None]:
    """Draw with one seed inside; outside, the generators go on as if nothing had been drawn.

    So that a split at random is the same in every worker.
    """
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            seed_everything(seed)
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


def _targets(task: Task, y: Tensor) -> Tensor:
    """Return class numbers as cross-entropy takes them, once for all trials."""
    return y.long() if smooths(task) and not y.is_floating_point() else y


def data_on(task: Task, device: torch.device) -> Data:
    """Return the task's data with its tensors on `device`; read once, then kept."""
    for kept in _kept:
        if kept.task is task and kept.device == device:
            return kept.data
    with fixed_seed():
        data = task.data()
    if not isinstance(data, Data):
        raise TaskError(
            f"{type(task).__name__}.data() must return scattershot.Data(train=…, val=…), "
            f"not a {type(data).__name__}"
        )

    def move(part: Part) -> Part:
        if not is_tensors(part):
            # an iterator would be empty from the second epoch on
            if isinstance(part, (tuple, Iterator)) or not isinstance(part, Iterable):
                raise TaskError(
                    f"{type(task).__name__}.data(): each part must be a pair (x, y) of tensors or "
                    f"a DataLoader, not {_kinds(part)}"
                )
            return part
        x, y = part
        if len(x) != len(y) or len(x) == 0:
            raise TaskError(
                f"{type(task).__name__}.data(): x has {len(x)} examples and y {len(y)}; "
                "both must have the same number, above 0"
            )
        return x.to(device), _targets(task, y).to(device)

    moved = Data(move(data.train), move(data.val), None if data.test is None else move(data.test))
    _kept[:] = [_Moved(task, device, moved)]  # one task at a time: a GPU's memory is not endless
    return moved
