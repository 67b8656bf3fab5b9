"""Owns the numbers of all lanes of a pack: rows of weights and moments, stacks of buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scattershot_worker.fused.layout import Layout, empty, tensors_of
from scattershot_worker.fused.optimizer_rules import RULES, Parts, Rule, Settings
from scattershot_worker.training.training import Training


@dataclass
class LaneRow:
    """One lane's place: its row's number, and what its optimizer does."""

    training: Training
    row: int
    rule: Rule
    #: Of each parameter group, whether no step has been done.
    fresh: list[bool]

    def settings(self) -> list[Settings]:
        """Return the settings of the next step, of each parameter group."""
        groups = self.training.optimizer.param_groups
        return [
            self.rule.settings(group, fresh=fresh)
            for group, fresh in zip(groups, self.fresh, strict=True)
        ]

    def stepped(self) -> None:
        """Note that a step has been done."""
        self.fresh = [False] * len(self.fresh)


class LaneStorage:
    """Rows and stacks of up to `capacity` lanes; it grows when more are seated."""

    def __init__(self, layout: Layout, like: Training, capacity: int) -> None:
        self.layout = layout
        self._like = tensors_of(like.model)
        first = next(iter(self._like.values()))
        trained = {one.name for one in layout.slices}
        dtype = next((self._like[name].dtype for name in trained), first.dtype)
        self._row = torch.zeros(layout.width, dtype=dtype, device=first.device)
        self.capacity = 0
        self.weights = self.one = self.two = torch.zeros(0, layout.width, dtype=dtype)
        #: Steps done, of each parameter group.
        self.steps = torch.zeros(0, len(layout.groups))
        #: Averaged weights; no rows until a lane has some.
        self.averages = self.weights
        self.stacks: dict[str, Tensor] = {}
        #: Gradients of every trained parameter, [capacity, …].
        self.grads: dict[str, Tensor] = {}
        #: Views of single rows, by what they are rows of: every epoch's checkpoint wants them.
        self._views: dict[tuple[str, int], dict[str, Tensor]] = {}
        self.reserve(capacity)

    def reserve(self, capacity: int) -> None:
        """Make room for so many lanes."""
        if capacity <= self.capacity:
            return
        rows = [empty(self._row, capacity) for _ in range(3)]
        steps = torch.zeros(capacity, len(self.layout.groups), device=self._row.device)
        stacks = {name: empty(self._like[name], capacity) for name in self.layout.others}
        before = (self.weights, self.one, self.two, self.steps)
        for new, old in zip((*rows, steps), before, strict=True):
            new[: self.capacity] = old
        for name, stack in stacks.items():
            if name in self.stacks:
                stack[: self.capacity] = self.stacks[name]
        self.weights, self.one, self.two = rows
        self.steps = steps
        self.grads = {one.name: empty(self._like[one.name], capacity) for one in self.layout.slices}
        self.stacks, self.capacity = stacks, capacity
        self._views = {}
        if len(self.averages):
            self._reserve_averages()

    def _reserve_averages(self) -> None:
        old, self.averages = self.averages, empty(self._row, self.capacity)
        self.averages[: len(old)] = old
        self._views = {}

    def move(self, source: int, target: int) -> None:
        """Copy a lane's numbers to another row."""
        for rows in (self.weights, self.one, self.two, self.steps, *self.stacks.values()):
            rows[target] = rows[source]
        if len(self.averages):
            self.averages[target] = self.averages[source]

    def seat(self, training: Training, row: int) -> LaneRow:
        """Bring a trial's numbers into a row."""
        tensors = tensors_of(training.model)
        optimizer = training.optimizer
        rule = RULES[type(optimizer)]
        fresh = []
        slices = iter(self.layout.slices)
        for rows in (self.weights, self.one, self.two, self.steps):
            rows[row].zero_()
        for number, group in enumerate(optimizer.param_groups):
            begun = False
            for parameter in group["params"]:
                place = next(slices)
                place.of(self.weights[row]).copy_(tensors[place.name])
                state = optimizer.state.get(parameter, {})
                for name, rows in zip(rule.moments, (self.one, self.two), strict=False):
                    if isinstance(moment := state.get(name), Tensor):
                        place.of(rows[row]).copy_(moment)
                        begun = True
                if "step" in state:  # all parameters of a group step together
                    self.steps[row, number] = torch.as_tensor(state["step"])
            fresh.append(not begun)
        for name, stack in self.stacks.items():
            stack[row].copy_(tensors[name])
        if training.average is not None:
            if len(self.averages) < self.capacity:
                self._reserve_averages()
            for place in self.layout.slices:
                place.of(self.averages[row]).copy_(training.average.weights[place.name])
        return LaneRow(training, row, rule, fresh)

    def _of(self, what: str, row: int) -> dict[str, Tensor]:
        """Return a row of `weights`, `one`, `two` or `averages` as views, by parameter."""
        if (what, row) not in self._views:
            self._views[what, row] = self.layout.views(getattr(self, what)[row])
        return self._views[what, row]

    def lane(self, row: int) -> dict[str, Tensor]:
        """Return all parameters and buffers of a row as views, by name."""
        stacks = {name: stack[row] for name, stack in self.stacks.items()}
        return {**self._of("weights", row), **stacks}

    def lanes(self, width: int, *, averaged: bool = False) -> dict[str, Tensor]:
        """Return those of the first rows, [width, …]; `averaged` has the averaged weights."""
        rows = self.averages if averaged else self.weights
        stacks = {name: stack[:width] for name, stack in self.stacks.items()}
        return {**self.layout.views(rows[:width]), **stacks}

    def parts(self, row: int, group: int, first: int, end: int) -> Parts:
        """Return what the update of the slices from `first` to `end` of one row works on."""
        names = [one.name for one in self.layout.slices[first:end]]
        rows = [self._of(what, row) for what in ("weights", "one", "two")]
        weights, one, two = ([some[name] for name in names] for some in rows)
        grads = [self.grads[name][row] for name in names]
        return Parts(weights, grads, one, two, [self.steps[row, group]] * len(names))

    def model_state(self, seat: LaneRow) -> dict[str, Tensor]:
        """Return the trial's `model.state_dict()`; views, to be copied at once."""
        tensors = self.lane(seat.row)
        return {key: tensors[name] for key, name in self.layout.keys}

    def averages_of(self, seat: LaneRow) -> dict[str, Tensor]:
        """Return the trial's `average.state_dict()`; views, to be copied at once."""
        return dict(self._of("averages", seat.row))

    def optimizer_state(self, seat: LaneRow) -> dict[str, Any]:
        """Return the trial's `optimizer.state_dict()`; views, to be copied at once."""
        state: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        slices = iter(self.layout.slices)
        number = 0
        moments = [self._of(what, seat.row) for what in ("one", "two")]
        for index, group in enumerate(seat.training.optimizer.param_groups):
            members = range(number, number + len(group["params"]))
            groups.append({**group, "params": [*members]})
            kept = [
                (name, views)
                for name, views in zip(seat.rule.moments, moments, strict=False)
                if name in seat.rule.keeps(group)
            ]
            counted = {"step": self.steps[seat.row, index]} if seat.rule.counts else {}
            for number in members:
                place = next(slices)
                entry = {**counted, **{name: views[place.name] for name, views in kept}}
                if entry and not seat.fresh[index]:
                    state[number] = entry
            number = members.stop
        return {"state": state, "param_groups": groups}
