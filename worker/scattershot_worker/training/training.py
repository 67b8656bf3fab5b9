"""Owns what one trial trains with, and its step: forward, loss, backward, update."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from scattershot_common.errors import TaskError
from scattershot_common.seeds import derive
from scattershot_common.task.classification import labels, probabilities
from scattershot_common.task.task import Task
from scattershot_worker.training import dropout, logit_check, schedules
from scattershot_worker.training.ema import Ema
from scattershot_worker.training.hyperparameters import Hyperparameters
from scattershot_worker.training.initialization import initialize
from scattershot_worker.training.optimizers import make_optimizer


class StepMonitor(Protocol):
    """Looks at one step, and changes nothing in it."""

    def gradients(self) -> None:
        """Look between the backward pass and clipping."""

    def updated(self) -> None:
        """Look after the update."""


_TYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        self.how = Hyperparameters.of(params)
        self.batch_size = self.how.batch_size
        model = task.model(params) if model is None else model
        if self.how.init != "default":
            initialize(model, self.how.init)
        self.model = model.to(device)
        self.optimizer = task.optimizer(self.model, params) or make_optimizer(self.model, params)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.ema = None if self.how.ema is None else Ema(self.model, self.how.ema)
        if self.how.label_smoothing and not smooths(task):
            raise TaskError("label_smoothing needs the default loss of a classification task")
        self.device = device
        self._forward = torch.compile(self.model) if self.how.compile else self.model
        self._autocast = _TYPES[self.how.precision]
        self.scaler = torch.amp.GradScaler(device.type) if self.how.precision == "fp16" else None
        self._takes_logits = logit_check.takes_logits(task)
        self._augments = type(task).augment is not Task.augment
        #: Batches whose gradients are held, whether the next one is the epoch's last, and what
        #: looks at the update that they come to.
        self._held, self._last = 0, False
        self._watch: StepMonitor | None = None
        #: The epoch that is trained, from 1.
        self.epoch = 1
        self._plateaus = 1.0
        #: The model's outputs at the last step, with its graph.
        self.outputs: Tensor | None = None
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Take another seed, for the order of the data and for dropout."""
        self.seed = seed
        self.masks = dropout.Masks(seed, self.device)
        if not self.how.compile:  # a compiled program would keep the first step's for good
            dropout.take_over(self.model, self.masks)

    # ---- where it is

    def begin_epoch(self, epoch: int, history: Sequence[Mapping[str, float]]) -> None:
        """Be before the first step of an epoch; `history` has a line for each before it."""
        self.epoch = epoch
        self.masks.begin_epoch(epoch)
        self._held = 0
        if self._augments:
            self._random = torch.Generator().manual_seed(derive(self.seed, "augment", epoch))
        if self.how.schedule == "plateau":
            losses = [line["val_loss"] for line in history if "val_loss" in line]
            self._plateaus = schedules.plateau(losses, self.how)
        self.begin_step(0, 1)

    def begin_step(self, step: int, steps: int) -> None:
        """Be before step `step`, counted from 0, of an epoch that has `steps`."""
        self._last = step == steps - 1
        progress = (self.epoch - 1 + step / steps) / max(self.budget, self.epoch)
        factor = schedules.factor(progress, self.how) * self._plateaus
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
            if self.how.final_momentum is not None and "momentum" in group:
                first = group.setdefault("initial_momentum", group["momentum"])
                group["momentum"] = schedules.momentum(progress, first, self.how)
                if isinstance(self.optimizer, torch.optim.RMSprop):
                    # which makes no buffer for a momentum of 0, and misses it once there is one
                    group["momentum"] = max(group["momentum"], sys.float_info.min)

    @property
    def lr(self) -> float:
        """The learning rate that the next step has."""
        return float(self.optimizer.param_groups[0]["lr"])

    # ---- a step

    def step(self, x: Tensor, y: Tensor, watch: StepMonitor | None = None) -> Tensor:
        """Do one step on a batch; return its mean loss, a scalar.

        With `accumulate` the gradients of so many batches come to one update.
        """
        self.masks.begin_step()
        if self._augments:
            x = self.task.augment(x, self._random)
        if self._held == 0:
            self.optimizer.zero_grad()
        loss, outputs = self._run(x, y)
        self.outputs = outputs if isinstance(outputs, Tensor) else None
        if self._takes_logits and self.outputs is not None:
            logit_check.refuse_probabilities(self.outputs, y)
            self._takes_logits = False  # looked at once
        share = loss if self.how.accumulate == 1 else loss / self.how.accumulate
        (share if self.scaler is None else self.scaler.scale(share)).backward()
        self._held += 1
        self._watch = watch or self._watch
        if self._held == self.how.accumulate or self._last:
            self._update()
        return loss.detach()

    def _run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self._autocast is None and not self.how.compile:
            outputs = self.model(x)
            return self.loss(outputs, y), outputs
        on = self._autocast is not None
        with torch.autocast(self.device.type, self._autocast, enabled=on):
            try:
                outputs = self._forward(x)
            except Exception as error:
                if not (self.how.compile and type(error).__module__.startswith("torch._")):
                    raise
                raise TaskError(
                    f"compile = true does not work here: {' '.join(str(error).split())[:200]}"
                ) from error
            return self.loss(outputs, y), outputs

    def _update(self) -> None:
        watch, self._watch, self._held = self._watch, None, 0
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if watch is not None:
            watch.gradients()
        if self.how.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.how.clip_norm)
        if self.how.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), self.how.clip_value)
        if not self._stepped(tell=watch is not None or self.ema is not None):
            return  # there is no update to look at, and nothing new to average
        if watch is not None:
            watch.updated()
        if self.ema is not None:
            self.ema.update()

    def _stepped(self, *, tell: bool) -> bool:
        """Let the optimizer step; return False where the scaler skipped it, if that is to `tell`.

        It skips a step whose gradients are not finite. Telling makes the CPU wait for a GPU.
        """
        if self.scaler is None:
            self.optimizer.step()
            return True
        scale = self.scaler.get_scale() if tell else 0.0
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return not tell or self.scaler.get_scale() >= scale

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss that is trained on: the task's, with smoothed labels if asked for."""
        if self.how.label_smoothing:
            smoothing = self.how.label_smoothing
            y = labels(outputs, y)
            return functional.cross_entropy(outputs, y, label_smoothing=smoothing)
        return self.task.loss(outputs, y)

    @property
    def parts(self) -> dict[str, Any]:
        """What `trial.epochs` restores and checkpoints, by name."""
        more = {"ema": self.ema, "scaler": self.scaler}
        kept = {name: part for name, part in more.items() if part is not None}
        return {"model": self.model, "optimizer": self.optimizer, **kept}


def smooths(task: Task) -> bool:
    """Return whether labels can be smoothed: the loss is cross-entropy, for all that is known."""
    return task.kind == "classification" and type(task).loss is Task.loss


def one_tensor(outputs: Any) -> Tensor:
    """Return a model's outputs; raises TaskError unless they are one tensor."""
    if isinstance(outputs, Tensor):
        return outputs
    raise TaskError(
        f"the model must give one tensor for a batch, not a {type(outputs).__name__}: return what "
        "loss() and metrics() need as one, and take it apart there"
    )


def measured(task: Task, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
    """Return the task's metrics; raises TaskError where they are no dict."""
    found: Any = task.metrics(outputs, targets)
    if isinstance(found, Mapping):
        return found
    raise TaskError(
        f"{type(task).__name__}.metrics() must return a dict of name and number, not a "
        f"{type(found).__name__}"
    )


def predicted(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what is saved for ensembles; the targets' shape tells which axis the classes are."""
    if task.kind == "classification" and type(task).predictions is Task.predictions:
        own = type(task).metrics is not Task.metrics and outputs.numel() == targets.numel()
        if own and outputs.min() >= 0 and outputs.max() <= 1:
            return outputs  # of a sigmoid: default metrics refuse those
        return probabilities(outputs, targets, second=type(task).loss is Task.loss)
    return task.predictions(outputs)


def expected(task: Task, targets: Tensor) -> Tensor:
    """Return the targets saved beside predictions, where integers stand for classes."""
    whole = task.kind == "regression" and not targets.is_floating_point()
    return targets.double() if whole else targets
