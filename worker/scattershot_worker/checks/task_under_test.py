"""Owns what the checks look at: a task with one set of hyperparameters, left as it was found."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from scattershot_common.errors import TaskError
from scattershot_common.seeds import derive
from scattershot_common.space.space import Axis, Space
from scattershot_common.task.check_result import CheckResult
from scattershot_common.task.classification import class_axis
from scattershot_common.task.task import Data, Task
from scattershot_worker.training.data import EMPTY, batches, data_on, is_tensors
from scattershot_worker.training.hyperparameters import Hyperparameters
from scattershot_worker.training.initialization import initialize, make_model
from scattershot_worker.training.optimizers import make_optimizer
from scattershot_worker.training.outputs import is_cross_entropy
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training

Batch = tuple[Tensor, Tensor]

#: Hyperparameters that regularize, besides all whose name says dropout.
_REGULARIZERS = ("weight_decay", "label_smoothing", "l1", "l2")


class _Found:
    """A model as it was when it came from the task, to be given back so."""

    def __init__(self, model: nn.Module) -> None:
        self._state = {k: v.detach().clone() for k, v in _tensors(model)}
        self._training = {name: module.training for name, module in model.named_modules()}
        self._dropout = {name: module.p for name, module in _dropouts(model)}
        self._grads = {name: p.grad for name, p in model.named_parameters()}

    def restore(self, model: nn.Module) -> None:
        with torch.no_grad():
            for name, tensor in _tensors(model):
                tensor.copy_(self._state[name])
        for name, module in model.named_modules():
            module.training = self._training[name]
        for name, dropout in _dropouts(model):
            dropout.p = self._dropout[name]
        for name, parameter in model.named_parameters():
            parameter.grad = self._grads[name]


class TaskUnderTest:
    """A task, the hyperparameters its model is made with, its data on a device, and a seed.

    Nothing that a check does to a model or to the generators of random numbers outlasts it: the
    runner calls `restore` after every check. `space` is the study's, None where there is none.
    """

    def __init__(
        self,
        task: Task,
        params: Mapping[str, Any],
        device: torch.device,
        seed: int = 0,
        space: Space | None = None,
    ) -> None:
        self.task, self.params, self.device, self.seed = task, dict(params), device, seed
        self.space = space
        self.data: Data = data_on(task, device)
        self._found: WeakKeyDictionary[nn.Module, _Found] = WeakKeyDictionary()

    def model(self, **changes: Any) -> nn.Module:
        """Return a model in training mode, with the same fresh weights whenever it is called.

        `changes` stand in for hyperparameters. A task that keeps one model and returns it again
        and again gets it back as it was.
        """
        seed_everything(derive(self.seed, "init"))
        model = make_model(self.task, self.params | changes, self.data.train).to(self.device)
        found = self._found.get(model)
        if found is None:
            self._found[model] = _Found(model)
        else:
            found.restore(model)
        how = Hyperparameters.of(self.params | changes)
        if how.init != "default":
            initialize(model, how.init)
        return model.train()

    def plain_model(self) -> nn.Module:
        """Return a model as `model` does, with all regularization off."""
        return without_dropout(self.model(**self.unregularized()))

    def unregularized(self) -> dict[str, Any]:
        """Return the hyperparameters that regularize, each as it is when it does nothing."""
        return {name: 0.0 for name in self.regularizers()}

    def regularizers(self) -> list[str]:
        """Return the names of the hyperparameters, among those given, that regularize."""
        return [
            name
            for name, value in self.params.items()
            if (name in _REGULARIZERS or "dropout" in name)
            and isinstance(value, int | float)
            and not isinstance(value, bool)
        ]

    def optimizer(self, model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
        """Return the trial's optimizer; `changes` stand in for hyperparameters."""
        params = self.params | changes
        return self.task.optimizer(model, params) or make_optimizer(model, params)

    def restore(self) -> None:
        """Give every model back as it came from the task."""
        for model, found in self._found.items():
            found.restore(model)

    @property
    def batch_size(self) -> int:
        """The study's batch size, which holds for tensors; a loader brings its own."""
        return Hyperparameters.of(self.params).batch_size

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield batches of the training part without end, in the same order every time."""
        for epoch in count():
            seed_everything(derive(self.seed, "epoch", epoch))
            generator = torch.Generator().manual_seed(derive(self.seed, "order", epoch))
            batch = None
            for batch in batches(self.data.train, size or self.batch_size, self.device, generator):
                yield batch
            if batch is None:
                raise TaskError(EMPTY.format("training"))

    def sample(self, size: int) -> Batch:
        """Return `size` examples of the training part, drawn at random (fewer if it has fewer)."""
        if is_tensors(self.data.train):
            return next(self.batches(size))
        seed_everything(derive(self.seed, "epoch", 0))
        xs, ys, seen = [], [], 0
        for x, y in self.data.train:
            xs.append(x)
            ys.append(y)
            seen += len(y)
            if seen >= size:
                break
        if not seen:
            raise TaskError(EMPTY.format("training"))
        x, y = torch.cat(xs)[:size], torch.cat(ys)[:size]
        return x.to(self.device), y.to(self.device)

    @property
    def classes(self) -> int | None:
        """The number of classes in the training part, None if it cannot be told."""
        if self.task.kind != "classification":
            return None
        y = self.data.train[1] if is_tensors(self.data.train) else self.sample(10_000)[1]
        if y.is_floating_point():
            return y.shape[1] if y.dim() == 2 else None
        known = y[y >= 0]
        return int(known.max()) + 1 if known.numel() else None

    @property
    @torch.no_grad()
    def width(self) -> int | None:
        """The number of classes the network can tell apart, None where that has no meaning."""
        x, y = self.sample(2)
        outputs = self.model().eval()(x)
        if not isinstance(outputs, Tensor):
            return None
        if outputs.numel() == y.numel():
            return 2  # one output for each target
        shape = y.shape[:1] if y.shape[1:] == (1,) else y.shape
        axis = class_axis(outputs.shape, shape, second=is_cross_entropy(self.task))
        return None if axis is None else outputs.shape[axis]

    def axis(self, name: str) -> Axis | None:
        """Return the searched dimension of that name."""
        axes = self.space.axes if self.space else ()
        return next((axis for axis in axes if axis.name == name), None)

    def training(self, **changes: Any) -> Training:
        """Return what the trainer has for these hyperparameters, before the first step, on a copy.

        `changes` stand in for hyperparameters. Gradients are not accumulated: a step is an update.
        """
        params = self.params | {"accumulate": 1} | changes
        training = Training(
            self.task,
            params,
            seed=self.seed,
            budget=1,
            device=self.device,
            model=copy.deepcopy(self.model(**changes)),  # dropout layers are made others for good
        )
        training.begin_epoch(1, [])
        training.model.train()
        return training

    def train(self, training: Training, given: Iterator[Batch]) -> Iterator[float]:
        """Let the trainer's own steps be done on the batches `given`; yields the losses.

        A loss that is not finite ends it.
        """
        for x, y in given:
            value = training.step(x, y).item()
            yield value
            if not math.isfinite(value):
                return

    def iterate(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, given: Iterator[Batch]
    ) -> Iterator[float]:
        """Train on the batches `given`, yielding the loss of each before its step.

        A loss that is not finite ends it: no step is taken from there.
        """
        for x, y in given:
            loss = self.task.loss(model(x), y)
            value = loss.item()
            yield value
            if not math.isfinite(value):
                return
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


Check = Callable[[TaskUnderTest], CheckResult]


def without_dropout(model: nn.Module) -> nn.Module:
    """Turn all dropout layers of `model` off, in training mode as well; returns it."""
    for _, module in _dropouts(model):
        module.p = 0.0
    return model


def penalty(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return ½ Σ λ‖w‖², the loss whose gradient the optimizer's weight decay λ is."""
    terms = [
        0.5 * group["weight_decay"] * parameter.square().sum()
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group.get("weight_decay")
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the first group, and those of the others in proportion."""
    first = optimizer.param_groups[0]
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    base = first["initial_lr"]
    for group in optimizer.param_groups:
        group["lr"] = rate * (group["initial_lr"] / base if base else 1.0)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _dropouts(model: nn.Module) -> Iterator[tuple[str, _DropoutNd]]:
    for name, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            yield name, module
