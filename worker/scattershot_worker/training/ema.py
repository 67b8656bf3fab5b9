"""Owns the moving average of a trial's weights (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """e ← d · e + (1 - d) · w after every step, of the trained parameters, by name."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = {n: p.detach().clone() for n, p in self._parameters.items()}

    def update(self) -> None:
        """Take in the weights after a step."""
        averages, current = (
            [*self.weights.values()],
            [p.detach() for p in self._parameters.values()],
        )
        torch._foreach_lerp_(averages, current, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averaged weights meanwhile."""
        kept = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(weights[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights."""
        return self.weights

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the averaged weights; raises KeyError where one is missing."""
        for name, average in self.weights.items():
            average.copy_(state[name])
