"""What the checks work on: a task with one set of hyperparameters, restored after each check."""

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
from scattershot_worker.training.hooks import Hooks
from scattershot_worker.training.hyperparameters import Hyperparameters
from scattershot_worker.training.initialization import initialize, make_model
from scattershot_worker.training.optimizers import make_optimizer
from scattershot_worker.training.outputs import is_cross_entropy
from scattershot_worker.training.own_generators import OwnGenerators
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training

Batch = tuple[Tensor, Tensor]

#: Hyperparameters that regularize, besides all whose name says dropout.
_REGULARIZERS = ("weight_decay", "label_smoothing", "l1", "l2")


class _ModelState:
    """The state of a model as the task returned it, to be restored."""

    def __init__(self, model: nn.Module) -> None:
        self._state = {k: v.detach().clone() for k, v in _tensors(model)}
        self._training = {name: module.training for name, module in model.named_modules()}
        self._dropout = {name: module.p for name, module in _dropouts(model)}
        self._grads = {name: p.grad for name, p in model.named_parameters()}

    def restore(self, model: nn.Module) -> None:
        """Set the model to this state."""
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

    The effects of a check on models do not outlast it: `run_checks` calls `restore` after each.
    `space` is the study's, None where there is none.
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
        self._states: WeakKeyDictionary[nn.Module, _ModelState] = WeakKeyDictionary()

    def model(self, **changes: Any) -> nn.Module:
        """Return a model in training mode, with the same initial weights whenever it is called.

        `changes` replace hyperparameters. A model that the task keeps and returns again has its
        state restored.
        """
        seed_everything(derive(self.seed, "init"))
        model = make_model(self.task, self.params | changes, self.data.train).to(self.device)
        state = self._states.get(model)
        if state is None:
            self._states[model] = _ModelState(model)
        else:
            state.restore(model)
        settings = Hyperparameters.of(self.params | changes)
        if settings.init != "default":
            initialize(model, settings.init)
        return model.train()

    def plain_model(self) -> nn.Module:
        """Return a model as `model` does, without any regularization."""
        return without_dropout(self.model(**self.unregularized()))

    def unregularized(self) -> dict[str, Any]:
        """Return the hyperparameters that regularize, each with the value that has no effect."""
        return {name: 0.0 for name in self.regularizers()}

    def regularizers(self) -> list[str]:
        """Return the names of the given hyperparameters that regularize."""
        return [
            name
            for name, value in self.params.items()
            if (name in _REGULARIZERS or "dropout" in name)
            and isinstance(value, int | float)
            and not isinstance(value, bool)
        ]

    def optimizer(self, model: nn.Module, **changes: Any) -> torch.optim.Optimizer:
        """Return the trial's optimizer; `changes` replace hyperparameters."""
        params = self.params | changes
        return self.task.optimizer(model, params) or make_optimizer(model, params)

    def hooks(self, **changes: Any) -> Hooks:
        """Return the task's hooks for the trial; `changes` replace hyperparameters."""
        return Hooks(self.task, self.params | changes)

    def restore(self) -> None:
        """Restore every model to the state in which the task returned it."""
        for model, state in self._states.items():
            state.restore(model)

    @property
    def batch_size(self) -> int:
        """The study's batch size, which applies to tensors; a loader has its own."""
        return Hyperparameters.of(self.params).batch_size

    def batches(self, size: int | None = None) -> Iterator[Batch]:
        """Yield batches of the training part endlessly, in the same order every time."""
        for epoch in count():
            seed_everything(derive(self.seed, "epoch", epoch))
            OwnGenerators(self.data.train).seed(derive(self.seed, "epoch", epoch))
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
        OwnGenerators(self.data.train).seed(derive(self.seed, "epoch", 0))
        xs, ys, examples = [], [], 0
        for x, y in self.data.train:
            xs.append(x)
            ys.append(y)
            examples += len(y)
            if examples >= size:
                break
        if not examples:
            raise TaskError(EMPTY.format("training"))
        x, y = torch.cat(xs)[:size], torch.cat(ys)[:size]
        return x.to(self.device), y.to(self.device)

    @property
    def classes(self) -> int | None:
        """The number of classes in the training part, None if it is not known."""
        if self.task.kind != "classification":
            return None
        y = self.data.train[1] if is_tensors(self.data.train) else self.sample(10_000)[1]
        if y.is_floating_point():
            return y.shape[1] if y.dim() == 2 else None
        known = y[y >= 0]
        return int(known.max()) + 1 if known.numel() else None

    @property
    @torch.no_grad()
    def outputs(self) -> int | None:
        """The number of classes the network can distinguish, None where that has no meaning."""
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
        """Return a trial's training with these hyperparameters, before its first step, on a copy.

        `changes` replace hyperparameters. Gradients are not accumulated: a step is an update.
        """
        params = self.params | {"accumulate": 1} | changes
        training = Training(
            self.task,
            params,
            seed=self.seed,
            budget=1,
            device=self.device,
            model=copy.deepcopy(self.model(**changes)),  # it replaces dropout layers for good
        )
        training.begin_epoch(1, [])
        training.model.train()
        return training

    def train(self, training: Training, data: Iterator[Batch]) -> Iterator[float]:
        """Do a trial's own training steps on `data`; yield the losses.

        A loss that is not finite ends it.
        """
        for x, y in data:
            value = training.step(x, y).item()
            yield value
            if not math.isfinite(value):
                return

    def iterate(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: Iterator[Batch],
        **changes: Any,
    ) -> Iterator[float]:
        """Train on the batches of `data`, yielding the loss of each before its step.

        `changes` replace hyperparameters. A loss that is not finite ends it: no step is taken
        from there.
        """
        hooks = self.hooks(**changes)
        for x, y in data:
            loss = hooks.loss(model(x), y)
            value = loss.item()
            yield value
            if not math.isfinite(value):
                return
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


Check = Callable[[TaskUnderTest], CheckResult]


def without_dropout(model: nn.Module) -> nn.Module:
    """Disable all dropout layers of `model`, in training mode as well; return it."""
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
