"""Owns the update of all lanes after a step: clipping, decay, optimizers, averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch
from torch import Tensor

from scattershot_worker.fused.bank import Bank, Seat
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.rules import Parts, Settings


@dataclass
class _LaneUpdate:
    """What the update of one lane works on: `parts` for each kernel call, `now` its settings."""

    lane: Lane
    seat: Seat
    parts: list[Parts]
    #: Whether its parameter groups differ in their decay alone: that is done beforehand for all
    #: such lanes, and one call does for the rest.
    at_once: bool
    weights: Tensor
    average: Tensor | None
    now: list[Settings] = field(default_factory=list)

    @classmethod
    def of(cls, bank: Bank, lane: Lane) -> _LaneUpdate:
        seat = lane.seat
        assert seat is not None
        parts = [
            bank.parts(seat.row, group, first, first + count)
            for group, (first, count) in enumerate(bank.layout.members)
        ]
        alike = {repr({**one, "weight_decay": 0.0}) for one in seat.settings()}
        if at_once := len(parts) > 1 and len(alike) == 1:
            parts = [Parts(*([*chain(*some)] for some in zip(*parts, strict=True)))]
        average = None if lane.training.ema is None else bank.averages[seat.row]
        return cls(lane, seat, parts, at_once, bank.weights[seat.row], average)

    def prepare(self) -> None:
        """Read the settings of the optimizer, which a schedule may have changed."""
        self.now = self.seat.settings()
        if self.at_once:
            self.now = [{**self.now[0], "weight_decay": 0.0}]

    def clip(self) -> None:
        """Clip the gradients, by their norm and by value."""
        how = self.lane.training.how
        grads = [one for parts in self.parts for one in parts.grads]
        if how.clip_norm is not None:
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
            torch._foreach_mul_(grads, (how.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        if how.clip_value is not None:
            torch._foreach_clamp_max_(grads, how.clip_value)
            torch._foreach_clamp_min_(grads, -how.clip_value)

    def step(self) -> None:
        """Let the optimizer do a step."""
        for parts, now in zip(self.parts, self.now, strict=True):
            self.seat.rule.update(parts, now)
        self.seat.stepped()
        if self.average is not None and (decay := self.lane.training.how.ema) is not None:
            self.average.lerp_(self.weights, 1 - decay)


class LaneUpdates:
    """The updates of the lanes in a bank's first rows, for as long as they stay there."""

    def __init__(self, bank: Bank, lanes: Sequence[Lane], width: int) -> None:
        """Take lanes that are seated; `width` rows are trained, the rest of them idle."""
        self._bank, self._width = bank, width
        self._all = [_LaneUpdate.of(bank, lane) for lane in lanes]
        hows = [(one, one.lane.training.how) for one in self._all]
        self._clipped = [
            one for one, how in hows if (how.clip_norm, how.clip_value) != (None, None)
        ]
        self._moving = [one for one, how in hows if how.moves]
        #: Weights of a group and factors [W, 1] by which they decay; weights, their gradients and
        #: what of the ones is added to the others.
        self._shrink: list[tuple[Tensor, Tensor]] = []
        self._add: list[tuple[Tensor, Tensor, Tensor]] = []

    def begin_epoch(self) -> None:
        """Be before the first step of an epoch that the lanes' trials have begun."""
        for one in self._all:
            one.prepare()
        self._decay()

    def begin_step(self, step: int, steps: int) -> None:
        """Be before a step, counted from 0, of an epoch that has `steps`."""
        for one in self._moving:
            one.lane.training.begin_step(step, steps)
            one.prepare()
        if self._moving:
            self._decay()

    def step(self) -> None:
        """Update all lanes that are still there."""
        self._bank.steps.add_(1)
        for one in self._clipped:
            one.clip()
        for weights, factors in self._shrink:
            weights.mul_(factors)
        for weights, grads, shares in self._add:
            grads.addcmul_(weights, shares)
        for one in self._all:
            if one.lane.seat is not None:
                one.step()

    def _decay(self) -> None:
        """Choose factors and shares, which follow each lane's rate and decay."""
        layout, rows = self._bank.layout, self._bank.weights[: self._width]
        self._shrink, self._add = [], []
        for group, ((a, b), (first, count)) in enumerate(
            zip(layout.groups, layout.members, strict=True)
        ):
            factors = self._column(group, decoupled=True)
            if factors is not None:
                self._shrink.append((rows[:, a:b], factors))
            shares = self._column(group, decoupled=False)
            if shares is not None:
                for place in layout.slices[first : first + count]:
                    grads = self._bank.grads[place.name][: self._width]
                    column = shares.view(-1, *[1] * len(place.shape))
                    self._add.append((place.of(rows), grads, column))

    def _column(self, group: int, *, decoupled: bool) -> Tensor | None:
        """Return [W, 1] of what the decay of a group comes to; None where no lane's decays."""
        neutral = 1.0 if decoupled else 0.0
        column = [neutral] * self._width
        for one in self._all:
            if one.at_once and one.seat.rule.decoupled == decoupled:
                about = one.lane.training.optimizer.param_groups[group]
                decay = about["weight_decay"]
                column[one.seat.row] = 1 - about["lr"] * decay if decoupled else decay
        if all(value == neutral for value in column):
            return None
        rows = self._bank.weights
        return torch.tensor(column, dtype=rows.dtype, device=rows.device).unsqueeze(1)
