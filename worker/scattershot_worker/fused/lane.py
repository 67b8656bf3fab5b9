"""Lanes of a pack: a trial's state as its checkpoints have it, and the update after a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from scattershot_worker.engine.engine import Site
from scattershot_worker.fused.lane_storage import LaneRow, LaneStorage
from scattershot_worker.fused.optimizer_rules import Settings, UpdateTensors
from scattershot_worker.fused.program import StepBuffers
from scattershot_worker.training import dropout
from scattershot_worker.training.training import Training


class _LanePart:
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
        #: Its row in the storage; None before it is admitted, and once it is released.
        self.row: LaneRow | None = None
        self.storage: LaneStorage | None = None
        #: The trial's parts as its checkpoints have them, by name.
        self.parts = {name: _LanePart(self, name) for name in training.parts}

    def state(self, part: str) -> Mapping[str, Any]:
        """Return the state of one part, as the `state_dict` of the trial alone has it."""
        if self.row is None or self.storage is None:
            state: Mapping[str, Any] = self.training.parts[part].state_dict()
            return state
        if part == "model":
            return self.storage.model_state(self.row)
        if self.training.average is not None and part == self.training.average.name:
            return self.storage.average_state(self.row)
        return self.storage.optimizer_state(self.row)


@dataclass
class _LaneUpdate:
    """The update of one lane: tensors and settings of each kernel call."""

    lane: Lane
    row: LaneRow
    calls: list[UpdateTensors]
    weights: Tensor
    average: Tensor | None
    settings: list[Settings] = field(default_factory=list)

    @classmethod
    def of(cls, storage: LaneStorage, lane: Lane) -> _LaneUpdate:
        row = lane.row
        assert row is not None
        calls = [storage.update_tensors(row.index, i) for i in range(len(storage.layout.groups))]
        first, *others = row.settings()
        if all(settings == first for settings in others):  # one call does for all groups
            calls = [UpdateTensors(*([*chain(*lists)] for lists in zip(*calls, strict=True)))]
        average = None if lane.training.average is None else storage.averages[row.index]
        return cls(lane, row, calls, storage.weights[row.index], average)

    def prepare(self) -> None:
        """Read the settings of the optimizer, which a schedule may have changed."""
        self.settings = self.row.settings()[: len(self.calls)]

    def clip(self) -> None:
        """Clip the gradients, by their norm and by value."""
        settings = self.lane.training.settings
        grads = [grad for tensors in self.calls for grad in tensors.grads]
        if settings.clip_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            torch._foreach_mul_(grads, (settings.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        if settings.clip_value is not None:
            torch._foreach_clamp_max_(grads, settings.clip_value)
            torch._foreach_clamp_min_(grads, -settings.clip_value)

    def step(self) -> None:
        """Let the optimizer do a step, and average the weights."""
        update = self.row.rule.update
        for tensors, settings in zip(self.calls, self.settings, strict=True):
            update(tensors, settings)
        if self.average is not None and (average := self.lane.training.average) is not None:
            average.merge([self.average], [self.weights])


class LaneUpdates:
    """The updates of the lanes in a storage's first rows, valid while they stay there."""

    def __init__(self, storage: LaneStorage, lanes: Sequence[Lane]) -> None:
        """Take lanes that have rows."""
        self._storage = storage
        self._updates = [_LaneUpdate.of(storage, lane) for lane in lanes]
        every = [(update, update.lane.training.settings) for update in self._updates]
        unclipped = (None, None)
        self._clipped = [
            update
            for update, settings in every
            if (settings.clip_norm, settings.clip_value) != unclipped
        ]
        #: The updates whose settings change from step to step.
        self._scheduled = [update for update, settings in every if settings.moves]
        self._first_step = False

    def begin_epoch(self) -> None:
        """Start the epoch that the lanes' trials have begun."""
        for update in self._updates:
            update.prepare()
        self._first_step = True

    def begin_step(self, step: int, steps: int) -> None:
        """Start step `step`, counted from 0, of an epoch that has `steps`."""
        for update in self._scheduled:
            update.lane.training.begin_step(step, steps)
            update.prepare()

    def step(self) -> None:
        """Update all lanes that have not been released."""
        self._storage.steps.add_(1)
        for update in self._clipped:
            update.clip()
        for update in self._updates:
            if update.lane.row is not None:
                update.step()
        if self._first_step:
            self._first_step = False
            for update in self._updates:
                update.row.mark_stepped()


@dataclass(frozen=True)
class ActiveLanes:
    """Lanes in the first rows, and what their steps work on as long as they stay there.

    The columns are [W] or [W, sites], for all W rows of the program, idle ones included.
    """

    key: tuple[object, ...]
    lanes: list[Lane]
    buffers: StepBuffers
    updates: LaneUpdates
    #: Label smoothing [W], and the dropout thresholds and scales of each site [W, sites].
    smoothing: Tensor
    thresholds: Tensor
    scales: Tensor

    @classmethod
    def of(
        cls,
        storage: LaneStorage,
        lanes: list[Lane],
        width: int,
        sites: Sequence[Site],
        before: ActiveLanes | None,
    ) -> ActiveLanes:
        """Return the active lanes of a program of `width` rows: `before` if nothing changed."""
        ids = (id(lane.row) for lane in lanes)
        key = (width, storage.capacity, len(storage.averages), *ids)
        if before is not None and before.key == key:
            return before
        weights = [*storage.layout.views(storage.weights[:width]).values()]
        stacks, grads = (
            [tensor[:width] for tensor in tensors.values()]
            for tensors in (storage.stacks, storage.grads)
        )
        buffers = StepBuffers(weights, stacks, grads)
        columns = _columns(storage, lanes, width, sites)
        return cls(key, lanes, buffers, LaneUpdates(storage, lanes), *columns)


def _columns(
    storage: LaneStorage, lanes: Sequence[Lane], width: int, sites: Sequence[Site]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return label smoothing, dropout thresholds and dropout scales; see `ActiveLanes`."""
    dtype, device = storage.weights.dtype, storage.weights.device
    smoothing = torch.zeros(width, dtype=dtype)
    thresholds = torch.full((width, max(len(sites), 1)), 32767, dtype=torch.int16)
    scales = torch.ones(width, max(len(sites), 1), dtype=dtype)
    for row, lane in enumerate(lanes):
        smoothing[row] = lane.training.settings.label_smoothing
        modules = dict(lane.training.model.named_modules())
        for column, (name, _) in enumerate(sites):
            threshold, scale = dropout.rule(cast(nn.Dropout, modules[name]).p)
            thresholds[row, column], scales[row, column] = max(threshold, -32768), scale
    return smoothing.to(device), thresholds.to(device), scales.to(device)
