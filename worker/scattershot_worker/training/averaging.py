"""Moving averages of a trial's weights (Polyak and Juditsky 1992), alone or as a lane.

A further kind of average is a subclass of `WeightAverage` in `AVERAGES`, and its hyperparameter in
`Hyperparameters`. torch's `AveragedModel` copies the whole model, starts at the first update and
names its state otherwise: its numbers, and the checkpoints there are, would not be ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn


class WeightAverage(ABC):
    """An average of the trained parameters, by name; it starts as a copy of them."""

    #: The hyperparameter that asks for it. In checkpoints it is the part of this name, in reports
    #: `val_accuracy_<name>` is the accuracy of the averaged weights.
    name: ClassVar[str]

    def __init__(self, model: nn.Module, value: float) -> None:
        """Take a model, and the hyperparameter's value."""
        self.value = value
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = {n: p.detach().clone() for n, p in self._parameters.items()}

    @abstractmethod
    def merge(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        """Merge the weights after a step into the averages, in place; alone and as a lane."""

    def update(self) -> None:
        """Merge the model's weights after a step."""
        self.merge([*self.weights.values()], [p.detach() for p in self._parameters.values()])

    def restarted(self, model: nn.Module) -> WeightAverage:
        """Return the same average of another model, which starts as a copy of its weights."""
        return type(self)(model, self.value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights inside, its own again outside."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._copy(self.weights)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights."""
        return self.weights

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the averaged weights; raises KeyError where one is missing."""
        for name, average in self.weights.items():
            average.copy_(state[name])


class Ema(WeightAverage):
    """The exponential moving average: e ← d · e + (1 - d) · w after every step."""

    name = "ema"

    def merge(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        """Interpolate by 1 - d."""
        torch._foreach_lerp_(averages, weights, 1 - self.value)


AVERAGES: tuple[type[WeightAverage], ...] = (Ema,)


def average_of(model: nn.Module, settings: object) -> WeightAverage | None:
    """Return the average that a trial's hyperparameters ask for, or None."""
    for average in AVERAGES:
        if (value := getattr(settings, average.name)) is not None:
            return average(model, value)
    return None
