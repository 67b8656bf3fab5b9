"""Owns a trial in a pack, as its checkpoints see it: the same parts as alone, wherever it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scattershot_worker.fused.lane_storage import LaneRow, LaneStorage
from scattershot_worker.training.training import Training


class _Part:
    """A lane's model, optimizer or averaged weights."""

    def __init__(self, lane: Lane, name: str) -> None:
        self._lane, self._name = lane, name

    def state_dict(self) -> Mapping[str, Any]:
        return self._lane.state(self._name)

    def load_state_dict(self, state: Any) -> object:
        return self._lane.training.parts[self._name].load_state_dict(state)


class Lane:
    """A trial in a pack. Before it is admitted its state is that of its `Training`."""

    def __init__(self, training: Training) -> None:
        self.training = training
        #: Where its numbers are; None before it is admitted, and once it is released.
        self.seat: LaneRow | None = None
        self.bank: LaneStorage | None = None
        #: The trial's parts as its checkpoints have them, by name.
        self.parts = {name: _Part(self, name) for name in training.parts}

    def state(self, part: str) -> Mapping[str, Any]:
        """Return the state of one part, in the words of the trial alone."""
        if self.seat is None or self.bank is None:
            state: Mapping[str, Any] = self.training.parts[part].state_dict()
            return state
        if part == "model":
            return self.bank.model_state(self.seat)
        if self.training.average is not None and part == self.training.average.name:
            return self.bank.averages_of(self.seat)
        return self.bank.optimizer_state(self.seat)
