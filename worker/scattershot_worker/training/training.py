"""What a trial trains with, its step (forward, loss, backward, update) and its epoch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.errors import TaskError
from scattershot_common.seeds import derive
from scattershot_common.task.classification import labels
from scattershot_common.task.task import Data, Part, Task
from scattershot_worker.training import dropout, schedules
from scattershot_worker.training.averaging import average_of
from scattershot_worker.training.data import EMPTY, batches, known_steps, steps_of
from scattershot_worker.training.hooks import Hooks
from scattershot_worker.training.hyperparameters import Hyperparameters
from scattershot_worker.training.initialization import initialize, make_model
from scattershot_worker.training.optimizers import make_optimizer
from scattershot_worker.training.outputs import (
    is_cross_entropy,
    refuse_probabilities,
    takes_logits,
)
from scattershot_worker.training.own_generators import OwnGenerators
from scattershot_worker.training.seeding import seed_everything


class StepMonitor(Protocol):
    """Observes one step, and changes nothing in it."""

    def gradients(self) -> None:
        """Observe the gradients, between the backward pass and clipping."""

    def updated(self) -> None:
        """Observe the weights after the update."""


class EpochMonitor(Protocol):
    """Observes the steps of an epoch, and changes nothing in them."""

    @property
    def first(self) -> float:
        """The first step that must be done by `step`: those before are not observed."""

    def begin_epoch(self, epoch: int, steps: int | None) -> None:
        """Start an epoch of `steps` steps; None where the loader has no length."""

    def step(self, number: int, x: Tensor, y: Tensor) -> Tensor:
        """Do the epoch's step `number`, counted from 0, and observe it; return its loss."""


#: What autocast computes in, by `precision`.
_AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Training:
    """A freshly made trial of a task class, on its device.

    torch's generators must be seeded for its weights; dropout has masks of its own, see `dropout`.
    """

    def __init__(
        self,
        task: Task,
        params: Mapping[str, Any],
        *,
        seed: int,
        budget: int,
        device: torch.device,
        model: nn.Module | None = None,
    ) -> None:
        """Make the model, unless one is given, and its optimizer.

        Raises:
            TaskError: for hyperparameters that cannot be.
        """
        self.task, self.params, self.budget = task, params, budget
        self.hooks = Hooks(task, params)
        #: The hyperparameters that the trainer itself reads.
        self.settings = Hyperparameters.of(params)
        self.batch_size = self.settings.batch_size
        model = task.model(params) if model is None else model
        if self.settings.init != "default":
            initialize(model, self.settings.init)
        self.model = model.to(device)
        self.optimizer = self.hooks.optimizer(self.model) or make_optimizer(self.model, params)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.average = average_of(self.model, self.settings)
        if self.settings.label_smoothing and not is_cross_entropy(task):
            raise TaskError("label_smoothing needs the default loss of a classification task")
        self.device = device
        self._forward = torch.compile(self.model) if self.settings.compile else self.model
        self._autocast = _AUTOCAST[self.settings.precision]
        self.scaler = (
            torch.amp.GradScaler(device.type) if self.settings.precision == "fp16" else None
        )
        self._takes_logits = takes_logits(task)
        self._augments = type(task).augment is not Task.augment
        #: Batches whose gradients have been accumulated, whether the next one is the epoch's last,
        #: and what observes their update.
        self._accumulated, self._last = 0, False
        self._monitor: StepMonitor | None = None
        #: The epoch that is trained, from 1.
        self.epoch = 1
        self._plateaus = 1.0
        #: The model's outputs at the last step, with its graph.
        self.outputs: Tensor | None = None
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Set another seed, for the order of the data and for dropout."""
        self.seed = seed
        self.masks = dropout.Masks(seed, self.device)
        if not self.settings.compile:  # a compiled program would repeat the first step's masks
            dropout.take_over(self.model, self.masks)

    # ---- progress

    def begin_epoch(self, epoch: int, history: Sequence[Mapping[str, float]]) -> None:
        """Start `epoch`; `history` has one record per finished epoch."""
        self.epoch = epoch
        self.masks.begin_epoch(epoch)
        self._accumulated = 0
        if self._augments:
            self._random = torch.Generator().manual_seed(derive(self.seed, "augment", epoch))
        if self.settings.schedule == "plateau":
            losses = [line["val_loss"] for line in history if "val_loss" in line]
            self._plateaus = schedules.plateau(losses, self.settings)
        self.begin_step(0, 1)

    def begin_step(self, step: int, steps: int) -> None:
        """Prepare step `step`, counted from 0, of an epoch that has `steps`."""
        self._last = step == steps - 1
        progress = (self.epoch - 1 + step / steps) / max(self.budget, self.epoch)
        factor = schedules.factor(progress, self.settings) * self._plateaus
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            if self.settings.final_momentum is not None and "momentum" in group:
                first = group.setdefault("initial_momentum", group["momentum"])
                group["momentum"] = schedules.momentum(progress, first, self.settings)
                if isinstance(self.optimizer, torch.optim.RMSprop):
                    # it makes no buffer for a momentum of 0, and would miss it later
                    group["momentum"] = max(group["momentum"], sys.float_info.min)

    @property
    def lr(self) -> float:
        """The learning rate that the next step has."""
        return float(self.optimizer.param_groups[0]["lr"])

    # ---- a step

    def step(self, x: Tensor, y: Tensor, monitor: StepMonitor | None = None) -> Tensor:
        """Do one step on a batch; return its mean loss, a scalar.

        With `accumulate` the gradients of that many batches make one update.
        """
        self.masks.begin_step()
        if self._augments:
            x = self.hooks.augment(x, self._random)
        if self._accumulated == 0:
            self.optimizer.zero_grad()
        loss, outputs = self._run(x, y)
        self.outputs = outputs if isinstance(outputs, Tensor) else None
        if self._takes_logits and self.outputs is not None:
            refuse_probabilities(self.outputs, y)
            self._takes_logits = False  # checked once
        share = loss if self.settings.accumulate == 1 else loss / self.settings.accumulate
        (share if self.scaler is None else self.scaler.scale(share)).backward()
        self._accumulated += 1
        self._monitor = monitor or self._monitor
        if self._accumulated == self.settings.accumulate or self._last:
            self._update()
        return loss.detach()

    def _run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self._autocast is None and not self.settings.compile:
            outputs = self.model(x)
            return self.loss(outputs, y), outputs
        on = self._autocast is not None
        with torch.autocast(self.device.type, self._autocast, enabled=on):
            try:
                outputs = self._forward(x)
            except Exception as error:
                if not (self.settings.compile and type(error).__module__.startswith("torch._")):
                    raise
                raise TaskError(
                    f"compile = true does not work here: {' '.join(str(error).split())[:200]}"
                ) from error
            return self.loss(outputs, y), outputs

    def _update(self) -> None:
        monitor, self._monitor, self._accumulated = self._monitor, None, 0
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if monitor is not None:
            monitor.gradients()
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        if self.settings.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.settings.clip_value)
        if not self._stepped(detect=monitor is not None or self.average is not None):
            return  # there is no update to observe, and nothing new to average
        if monitor is not None:
            monitor.updated()
        if self.average is not None:
            self.average.update()

    def _stepped(self, *, detect: bool) -> bool:
        """Let the optimizer step; return False where the scaler skipped it, if that is detected.

        It skips a step whose gradients are not finite. To detect it makes the CPU wait for a GPU.
        """
        if self.scaler is None:
            self.optimizer.step()
            return True
        scale = self.scaler.get_scale() if detect else 0.0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return not detect or self.scaler.get_scale() >= scale

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss that is trained on: the task's, with smoothed labels if asked for."""
        if self.settings.label_smoothing:
            smoothing = self.settings.label_smoothing
            y = labels(outputs, y)
            return functional.cross_entropy(outputs, y, label_smoothing=smoothing)
        return self.hooks.loss(outputs, y)

    @property
    def parts(self) -> dict[str, Any]:
        """What `trial.epochs` restores and checkpoints, by name."""
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        if self.average is not None:
            parts[self.average.name] = self.average
        if self.scaler is not None:
            parts["scaler"] = self.scaler
        return parts


def make_training(task: Task, data: Data, spec: TrialSpec, device: torch.device) -> Training:
    """Return a trial freshly made, after seeding the generators that its weights are drawn from.

    Raises:
        TaskError: its model or its hyperparameters cannot be.
    """
    seed = derive(spec.seed, "init")
    seed_everything(seed)
    OwnGenerators.of_task(task).seed(seed)
    model = make_model(task, spec.params, data.train)
    return Training(
        task, spec.params, seed=spec.seed, budget=spec.epochs, device=device, model=model
    )


def train_epoch(
    training: Training,
    part: Part,
    check: Callable[[], None],
    monitor: EpochMonitor | None = None,
) -> tuple[Tensor, int]:
    """Train for the epoch that `training` has begun; return the mean loss and the examples seen.

    `check` is called before every step, and may raise to leave the epoch.

    Raises:
        TaskError: the part has no batches, or model or loss return what they must not.
    """
    training.model.train()
    device, size, moves = training.device, training.batch_size, training.settings.moves
    generator = torch.Generator().manual_seed(derive(training.seed, "order", training.epoch))
    total, examples = torch.zeros((), device=device), 0
    steps = steps_of(part, size) if moves else 1
    if monitor is not None:
        monitor.begin_epoch(training.epoch, steps if moves else known_steps(part, size))
    for step, (x, y) in enumerate(batches(part, size, device, generator)):
        check()
        if moves:
            training.begin_step(min(step, steps - 1), steps)
        if monitor is not None and step >= monitor.first:
            loss = monitor.step(step, x, y)
        else:
            loss = training.step(x, y)
        total += loss * len(y)
        examples += len(y)
    if not examples:
        raise TaskError(EMPTY.format("training"))
    return total / examples, examples
