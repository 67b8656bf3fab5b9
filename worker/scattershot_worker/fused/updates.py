"""Owns the update of all lanes after a step: clipping, optimizers, averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.lane_storage import LaneRow, LaneStorage
from scattershot_worker.fused.optimizer_rules import Parts, Settings


@dataclass
class _LaneUpdate:
    """What the update of one lane works on: `parts` for each kernel call, `now` its settings."""

    lane: Lane
    seat: LaneRow
    parts: list[Parts]
    weights: Tensor
    average: Tensor | None
    now: list[Settings] = field(default_factory=list)

    @classmethod
    def of(cls, bank: LaneStorage, lane: Lane) -> _LaneUpdate:
        seat = lane.seat
        assert seat is not None
        parts = [
            bank.parts(seat.row, group, first, first + count)
            for group, (first, count) in enumerate(bank.layout.members)
        ]
        first, *others = seat.settings()
        if all(other == first for other in others):  # one call does for all groups
            parts = [Parts(*([*chain(*some)] for some in zip(*parts, strict=True)))]
        average = None if lane.training.average is None else bank.averages[seat.row]
        return cls(lane, seat, parts, bank.weights[seat.row], average)

    def prepare(self) -> None:
        """Read the settings of the optimizer, which a schedule may have changed."""
        self.now = self.seat.settings()[: len(self.parts)]

    def clip(self) -> None:
        """Clip the gradients, by their norm and by value."""
        settings = self.lane.training.settings
        grads = [one for parts in self.parts for one in parts.grads]
        if settings.clip_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            torch._foreach_mul_(grads, (settings.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        if settings.clip_value is not None:
            torch._foreach_clamp_max_(grads, settings.clip_value)
            torch._foreach_clamp_min_(grads, -settings.clip_value)

    def step(self) -> None:
        """Let the optimizer do a step."""
        update = self.seat.rule.update
        for parts, now in zip(self.parts, self.now, strict=True):
            update(parts, now)
        if self.average is not None and (average := self.lane.training.average) is not None:
            average.merge([self.average], [self.weights])


class LaneUpdates:
    """The updates of the lanes in a bank's first rows, for as long as they stay there."""

    def __init__(self, bank: LaneStorage, lanes: Sequence[Lane]) -> None:
        """Take lanes that are seated."""
        self._bank = bank
        self._all = [_LaneUpdate.of(bank, lane) for lane in lanes]
        every = [(update, update.lane.training.settings) for update in self._all]
        self._clipped = [
            update
            for update, settings in every
            if (settings.clip_norm, settings.clip_value) != (None, None)
        ]
        self._moving = [update for update, settings in every if settings.moves]
        self._fresh = False

    def begin_epoch(self) -> None:
        """Be before the first step of an epoch that the lanes' trials have begun."""
        for one in self._all:
            one.prepare()
        self._fresh = True

    def begin_step(self, step: int, steps: int) -> None:
        """Be before a step, counted from 0, of an epoch that has `steps`."""
        for one in self._moving:
            one.lane.training.begin_step(step, steps)
            one.prepare()

    def step(self) -> None:
        """Update all lanes that are still there."""
        self._bank.steps.add_(1)
        for one in self._clipped:
            one.clip()
        for one in self._all:
            if one.lane.seat is not None:
                one.step()
        if self._fresh:
            self._fresh = False
            for one in self._all:
                one.seat.stepped()
