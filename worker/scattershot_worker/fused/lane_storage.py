"""Storage of a pack's numbers: one row of weights and moments per lane, stacks of buffers.

All trained parameters of a lane lie in one row, group by group in the order of its optimizer, so
that an update is one kernel call per group; buffers and frozen parameters have a stack each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from scattershot_worker.fused.optimizer_rules import RULES, Rule, Settings, UpdateTensors
from scattershot_worker.training.training import Training

#: A row's length is a multiple of this number of elements: aligned rows are faster.
_ALIGNMENT = 16


@dataclass(frozen=True)
class Slice:
    """A parameter's position in a row."""

    name: str
    shape: tuple[int, ...]
    first: int

    @property
    def end(self) -> int:
        """Where the next slice begins."""
        return self.first + prod(self.shape)

    def of(self, rows: Tensor) -> Tensor:
        """Return the view [K, *shape] of rows [K, P], or [*shape] of one row [P]."""
        return rows[..., self.first : self.end].view(*rows.shape[:-1], *self.shape)


@dataclass(frozen=True)
class Layout:
    """Positions of one signature's parameters, the same for all its lanes."""

    slices: tuple[Slice, ...]
    #: Each parameter group's first slice, and its number of slices.
    groups: tuple[tuple[int, int], ...]
    #: Names of frozen parameters and buffers, which are stacked instead of lying in rows.
    stacked: tuple[str, ...]
    #: Keys of the model's state_dict, each with the name of the slice or stack that it is.
    keys: tuple[tuple[str, str], ...]
    #: Elements of a row.
    width: int

    @classmethod
    def of(cls, training: Training) -> Layout:
        """Return the layout of a trial's model under its optimizer."""
        model = training.model
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        slices: list[Slice] = []
        groups: list[tuple[int, int]] = []
        end = 0
        for group in training.optimizer.param_groups:
            groups.append((len(slices), len(group["params"])))
            for parameter in group["params"]:
                slices.append(Slice(names[id(parameter)], tuple(parameter.shape), end))
                end = slices[-1].end
        trained = {part.name for part in slices}
        stacked = [name for name, _ in model.named_parameters() if name not in trained]
        buffers = {id(buffer): name for name, buffer in model.named_buffers()}
        stacked += buffers.values()
        all_names = names | buffers
        tensors = model.state_dict(keep_vars=True)
        keys = tuple((key, all_names[id(value)]) for key, value in tensors.items())
        width = max(-(-end // _ALIGNMENT) * _ALIGNMENT, _ALIGNMENT)
        return cls(tuple(slices), tuple(groups), tuple(stacked), keys, width)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return all trained parameters of rows [K, P] as views, by name."""
        return {part.name: part.of(rows) for part in self.slices}


@dataclass
class LaneRow:
    """A lane's row: its index, and the rule that its optimizer follows."""

    training: Training
    index: int
    rule: Rule
    #: For each parameter group, whether no step has been done.
    fresh: list[bool]

    def settings(self) -> list[Settings]:
        """Return the settings of the next step, for each parameter group."""
        groups = self.training.optimizer.param_groups
        return [
            self.rule.settings(group, fresh=fresh)
            for group, fresh in zip(groups, self.fresh, strict=True)
        ]

    def mark_stepped(self) -> None:
        """Record that a step has been done."""
        self.fresh = [False] * len(self.fresh)


class LaneStorage:
    """Rows and stacks of up to `capacity` lanes; `reserve` enlarges them."""

    def __init__(self, layout: Layout, example: Training, capacity: int) -> None:
        """Take the layout, and a trial whose tensors have the types and the device of all."""
        self.layout = layout
        self._example = _tensors_of(example.model)
        first = next(iter(self._example.values()))
        trained = {part.name for part in layout.slices}
        dtype = next((self._example[name].dtype for name in trained), first.dtype)
        self._row = torch.zeros(layout.width, dtype=dtype, device=first.device)
        self.capacity = 0
        empty = torch.zeros(0, layout.width, dtype=dtype)
        self.weights = self.first_moments = self.second_moments = empty
        #: Steps done, of each parameter group, [capacity, groups].
        self.steps = torch.zeros(0, len(layout.groups))
        #: Averaged weights; no rows until a lane averages its weights.
        self.averages = empty
        #: Buffers and frozen parameters, [capacity, …], by name.
        self.stacks: dict[str, Tensor] = {}
        #: Gradients of every trained parameter, [capacity, …], by name.
        self.grads: dict[str, Tensor] = {}
        #: Views of single rows, by array and row: every epoch's checkpoint needs them.
        self._views: dict[tuple[str, int], dict[str, Tensor]] = {}
        self.reserve(capacity)

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` lanes."""
        if capacity <= self.capacity:
            return
        rows = [_stack_like(self._row, capacity) for _ in range(3)]
        steps = torch.zeros(capacity, len(self.layout.groups), device=self._row.device)
        stacks = {name: _stack_like(self._example[name], capacity) for name in self.layout.stacked}
        before = (self.weights, self.first_moments, self.second_moments, self.steps)
        for new, old in zip((*rows, steps), before, strict=True):
            new[: self.capacity] = old
        for name, stack in stacks.items():
            if name in self.stacks:
                stack[: self.capacity] = self.stacks[name]
        self.weights, self.first_moments, self.second_moments = rows
        self.steps = steps
        self.grads = {
            part.name: _stack_like(self._example[part.name], capacity)
            for part in self.layout.slices
        }
        self.stacks, self.capacity = stacks, capacity
        self._views = {}
        if len(self.averages):
            self._reserve_averages()

    def _reserve_averages(self) -> None:
        old, self.averages = self.averages, _stack_like(self._row, self.capacity)
        self.averages[: len(old)] = old
        self._views = {}

    def move(self, source: int, target: int) -> None:
        """Copy a lane's numbers to another row."""
        arrays = (self.weights, self.first_moments, self.second_moments, self.steps)
        for rows in (*arrays, *self.stacks.values()):
            rows[target] = rows[source]
        if len(self.averages):
            self.averages[target] = self.averages[source]

    def load(self, training: Training, index: int) -> LaneRow:
        """Copy a trial's numbers into row `index`."""
        tensors = _tensors_of(training.model)
        optimizer = training.optimizer
        rule = RULES[type(optimizer)]
        moment_rows = (self.first_moments, self.second_moments)
        fresh = []
        slices = iter(self.layout.slices)
        for rows in (self.weights, *moment_rows, self.steps):
            rows[index].zero_()
        for number, group in enumerate(optimizer.param_groups):
            has_moments = False
            for parameter in group["params"]:
                part = next(slices)
                part.of(self.weights[index]).copy_(tensors[part.name])
                state = optimizer.state.get(parameter, {})
                for name, rows in zip(rule.moments, moment_rows, strict=False):
                    if isinstance(moment := state.get(name), Tensor):
                        part.of(rows[index]).copy_(moment)
                        has_moments = True
                if "step" in state:  # all parameters of a group step together
                    self.steps[index, number] = torch.as_tensor(state["step"])
            fresh.append(not has_moments)
        for name, stack in self.stacks.items():
            stack[index].copy_(tensors[name])
        if training.average is not None:
            if len(self.averages) < self.capacity:
                self._reserve_averages()
            for part in self.layout.slices:
                part.of(self.averages[index]).copy_(training.average.weights[part.name])
        return LaneRow(training, index, rule, fresh)

    def _row_views(self, array: str, index: int) -> dict[str, Tensor]:
        """Return a row of the attribute named `array` as views, by parameter."""
        if (array, index) not in self._views:
            self._views[array, index] = self.layout.views(getattr(self, array)[index])
        return self._views[array, index]

    def tensors(self, index: int) -> dict[str, Tensor]:
        """Return all parameters and buffers of one row as views, by name."""
        stacks = {name: stack[index] for name, stack in self.stacks.items()}
        return {**self._row_views("weights", index), **stacks}

    def stacked_tensors(self, width: int, *, averaged: bool = False) -> dict[str, Tensor]:
        """Return those of the first rows, [width, …]; `averaged` has the averaged weights."""
        rows = self.averages if averaged else self.weights
        stacks = {name: stack[:width] for name, stack in self.stacks.items()}
        return {**self.layout.views(rows[:width]), **stacks}

    def update_tensors(self, index: int, group: int) -> UpdateTensors:
        """Return the tensors that the update of one row's parameter group works on."""
        first, count = self.layout.groups[group]
        names = [part.name for part in self.layout.slices[first : first + count]]
        arrays = ("weights", "first_moments", "second_moments")
        rows = [self._row_views(array, index) for array in arrays]
        weights, means, squares = ([views[name] for name in names] for views in rows)
        grads = [self.grads[name][index] for name in names]
        return UpdateTensors(
            weights, grads, means, squares, [self.steps[index, group]] * len(names)
        )

    def model_state(self, row: LaneRow) -> dict[str, Tensor]:
        """Return the trial's `model.state_dict()`; views, to be copied at once."""
        tensors = self.tensors(row.index)
        return {key: tensors[name] for key, name in self.layout.keys}

    def average_state(self, row: LaneRow) -> dict[str, Tensor]:
        """Return the trial's `average.state_dict()`; views, to be copied at once."""
        return dict(self._row_views("averages", row.index))

    def optimizer_state(self, row: LaneRow) -> dict[str, Any]:
        """Return the trial's `optimizer.state_dict()`; views, to be copied at once."""
        state: dict[int, dict[str, Any]] = {}
        groups: list[dict[str, Any]] = []
        slices = iter(self.layout.slices)
        number = 0
        arrays = ("first_moments", "second_moments")
        moments = [self._row_views(array, row.index) for array in arrays]
        for index, group in enumerate(row.training.optimizer.param_groups):
            members = range(number, number + len(group["params"]))
            groups.append({**group, "params": [*members]})
            stored = [
                (name, views)
                for name, views in zip(row.rule.moments, moments, strict=False)
                if name in row.rule.stored_moments(group)
            ]
            count = {"step": self.steps[row.index, index]} if row.rule.counts_steps else {}
            for number in members:
                part = next(slices)
                entry = {**count, **{name: views[part.name] for name, views in stored}}
                if entry and not row.fresh[index]:
                    state[number] = entry
            number = members.stop
        return {"state": state, "param_groups": groups}


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, by name, each once."""
    return {
        **{name: parameter.detach() for name, parameter in model.named_parameters()},
        **dict(model.named_buffers()),
    }


def _stack_like(tensor: Tensor, lanes: int) -> Tensor:
    """Return zeros [K, …] for a stack of tensors like this one."""
    return torch.zeros(lanes, *tensor.shape, dtype=tensor.dtype, device=tensor.device)
