"""Interface of user code: a `Task` class with its `Data`, or a train function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

from scattershot_common.task.classification import accuracy, labels, paired, probabilities

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Part = tuple[Tensor, Tensor] | Iterable[tuple[Tensor, Tensor]]
else:
    Part = Any


Kind = Literal["classification", "regression"]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Data:
    """The three parts of a data set, each `(x, y)` tensors of N examples or a DataLoader.

    Tensors are moved to the device once and stay there; numpy arrays become tensors, float64 in
    torch's default dtype. Trials are ranked by `val`; `test` is used only to evaluate the finished
    ensemble.
    """

    train: Part
    val: Part
    test: Part | None = None

    def __post_init__(self) -> None:
        """Convert numpy arrays."""
        for name in ("train", "val", "test"):
            part = getattr(self, name)
            if isinstance(part, tuple) and any(map(_is_array, part)):
                object.__setattr__(self, name, tuple(map(_tensor, part)))


def _is_array(value: object) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _tensor(value: Any) -> Any:
    """Return an array as a tensor of its own; anything else as it is."""
    if not _is_array(value):
        return value
    import torch

    tensor = torch.tensor(value.copy())  # in order: of a reversed view torch makes none
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


class Task(ABC):
    """A model and its data. `data` and `model` are required, the rest may be overridden.

    A worker makes one instance and keeps it, with its data, from trial to trial. `loss`, `metrics`,
    `predictions`, `initial_loss` and `augment` are given the trial's hyperparameters if they take
    `params`; what `model` keeps on the task instead is put back after the trial.
    """

    #: "classification": integer targets, cross-entropy, accuracy, probabilities as predictions.
    #: "regression": float targets, mean squared error, the outputs as predictions.
    #:
    #: Classes are the second axis of outputs, as for torch's cross-entropy: [N, C] for targets
    #: [N], [N, C, H, W] for [N, H, W]. Under a loss of your own they may be the last, [N, T, C]
    #: for [N, T]: whichever leaves the targets' shape. One output for each target ([N] or [N, 1])
    #: is the logit of the second of two classes, 0 and 1 or -1 and 1; a model that ends in a
    #: sigmoid must override `metrics`. Targets of -100 are ignored.
    kind: ClassVar[Kind] = "classification"

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is that of `[study] data`, or None where the study file names none."""
        self.folder = folder

    @abstractmethod
    def data(self) -> Data:
        """Return the data; called once per worker, with a fixed seed."""

    @abstractmethod
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        """Return a freshly initialized network for one trial's hyperparameters."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        from torch.nn import functional

        if self.kind == "regression":
            return functional.mse_loss(outputs, paired(outputs, targets))
        return functional.cross_entropy(outputs, labels(outputs, targets))

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """Return the metrics of a whole part, by bare name: "accuracy" becomes `val_accuracy`.

        `outputs` is [N, …] as the model gave them; the loss is added by the trainer. With
        `[worker] monitors` also called for some examples of the training part: `train_accuracy`.
        """
        if self.kind == "regression":
            error = outputs - paired(outputs, targets)
            return {"rmse": error.square().mean().sqrt().item(), "mae": error.abs().mean().item()}
        return {"accuracy": accuracy(outputs, targets, second=self._second)}

    def predictions(self, outputs: Tensor) -> Tensor:
        """Return what ensembles average: probabilities [N, …, C], or the outputs of a regression.

        Where there is one output for each target, probabilities of the second of two classes.
        """
        if self.kind == "regression":
            return outputs
        return probabilities(outputs, None, second=self._second)

    @property
    def _second(self) -> bool:
        """Whether classes must be the second axis: cross-entropy requires it."""
        return type(self).loss is Task.loss

    def initial_loss(self, classes: int | None) -> float | None:
        """Return the expected loss of a network before training.

        `classes` is the number of classes in the training part, None where it is unknown.
        `scattershot check` and `diagnose` compare the loss before learning with it. None, the
        default, means the loss of outputs that are all zero: ln C for cross-entropy, C - 1
        for a multiclass hinge loss (notes: "Sanity checks Tips/Tricks" in neural-networks-3).
        """
        return None

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return a training batch x [B, …], augmented by `generator`, which is on the CPU.

        Called for training batches only; the generator is seeded for each trial and epoch.
        """
        return x

    def optimizer(
        self, model: nn.Module, params: Mapping[str, Any]
    ) -> torch.optim.Optimizer | None:
        """Return the trial's optimizer, or None for the one that `params` names.

        The default reads the hyperparameters `optimizer` ("sgd", "adamw", …), `lr`,
        `weight_decay`, `momentum`, `nesterov`, `beta1`, `beta2`, `alpha`, `eps`.
        """
        return None


class TrialHandle(Protocol):
    """The argument of a train function, for type annotations; workers pass an implementation.

    A train function is named in `[study] task` as "module:function" and trains one trial:

        def train(trial: ss.TrialHandle) -> None:
            model, optimizer = ...
            for epoch in trial.epochs(model=model, optimizer=optimizer):
                for x, y in trial.batches(loader):
                    ...
                trial.report(val_accuracy=accuracy, train_loss=loss)
    """

    number: int
    stage: str
    params: Mapping[str, Any]
    seed: int
    budget: int
    device: torch.device
    folder: Path
    history: list[dict[str, float]]

    def epochs(self, **parts: Any) -> Iterator[int]:
        """Yield the epochs still to train, from 1; restores and checkpoints the named parts."""

    def batches(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield from `batches`; ends the training at once when the trial must stop."""

    def check(self) -> None:
        """End the training if the trial must stop: for loops that cannot use `batches`."""

    def report(
        self,
        metrics: Mapping[str, float] | None = None,
        /,
        *,
        predictions: Any = None,
        targets: Any = None,
        **more: Any,
    ) -> None:
        """Report an epoch's metrics (the study's metric among them) and write its checkpoint."""
