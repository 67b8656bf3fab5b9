"""Owns where a trial's numbers lie in the rows of a pack: weights, moments and buffers of a lane.

All trained parameters of a lane lie in one row, group by group as its optimizer has them, so that
an update is one kernel call for a group; buffers and frozen parameters have a stack each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from scattershot_worker.training.training import Training

#: Rows begin at multiples of so many elements: kernels like that.
_ALIGN = 16


@dataclass(frozen=True)
class Slice:
    """A parameter's place in a row."""

    name: str
    shape: tuple[int, ...]
    first: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.first + prod(self.shape)

    def of(self, rows: Tensor) -> Tensor:
        """Return the view [K, *shape] of rows [K, P], or [*shape] of one row [P]."""
        return rows[..., self.first : self.end].view(*rows.shape[:-1], *self.shape)


@dataclass(frozen=True)
class Layout:
    """The places of one signature's parameters, the same for all its lanes."""

    slices: tuple[Slice, ...]
    #: Where each of the optimizer's parameter groups begins and ends in a row.
    groups: tuple[tuple[int, int], ...]
    #: Of each group, which its first slice is and how many it has.
    members: tuple[tuple[int, int], ...]
    #: Frozen parameters and buffers: what lies in no row, by name.
    others: tuple[str, ...]
    #: What a state_dict calls them: its key, and the name of the slice or stack it is.
    keys: tuple[tuple[str, str], ...]
    width: int

    @classmethod
    def of(cls, training: Training) -> Layout:
        """Return the layout of a trial's model under its optimizer."""
        model = training.model
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        slices: list[Slice] = []
        groups: list[tuple[int, int]] = []
        members: list[tuple[int, int]] = []
        end = 0
        for group in training.optimizer.param_groups:
            first = end
            members.append((len(slices), len(group["params"])))
            for parameter in group["params"]:
                slices.append(Slice(names[id(parameter)], tuple(parameter.shape), end))
                end = slices[-1].end
            groups.append((first, end))
        trained = {one.name for one in slices}
        others = [name for name, _ in model.named_parameters() if name not in trained]
        buffers = {id(buffer): name for name, buffer in model.named_buffers()}
        others += buffers.values()
        owners = names | buffers
        tensors = model.state_dict(keep_vars=True)
        keys = tuple((key, owners[id(value)]) for key, value in tensors.items())
        width = max(-(-end // _ALIGN) * _ALIGN, _ALIGN)
        return cls(tuple(slices), tuple(groups), tuple(members), tuple(others), keys, width)

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return all trained parameters of rows [K, P] as views, by name."""
        return {one.name: one.of(rows) for one in self.slices}


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, by name, each once."""
    return {
        **{name: one.detach() for name, one in model.named_parameters()},
        **dict(model.named_buffers()),
    }


def empty(like: Tensor, lanes: int) -> Tensor:
    """Return zeros [K, …] for a stack of tensors like this one."""
    return torch.zeros(lanes, *like.shape, dtype=like.dtype, device=like.device)
