"""Owns the step as one program: forward, loss and backward of all lanes, traced once, replayed.

It is `vmap(functional_call(model))` with lane-aware operations; see `recording` for its replay.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from scattershot_common.task.task import Task
from scattershot_worker.fused.lane_functions import apply
from scattershot_worker.fused.lane_ops import LaneOps
from scattershot_worker.fused.lane_training import CrossEntropy, Dropout
from scattershot_worker.fused.layout import Layout
from scattershot_worker.fused.op_trace import record
from scattershot_worker.training import dropout

#: x [K, B, …], y [K, B, …], smoothing [K], random int16 [K, R], thresholds and scales [K, sites]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Places:
    """What a step works on: views of the rows, all [K, …], in the layout's order.

    Gradients are written to; the stacks as the model's modules write to their buffers.
    """

    weights: list[Tensor]
    stacks: list[Tensor]
    grads: list[Tensor]

    def all(self) -> list[Tensor]:
        """Return all tensors."""
        return [*self.weights, *self.stacks, *self.grads]

    def clones(self) -> Places:
        """Return copies of all."""
        return Places(*([one.clone() for one in some] for some in vars(self).values()))


#: Losses [K] and outputs [K, B, …] of a step.
Seen = tuple[Tensor, Tensor]
#: Does a step: returns what is seen of it, and leaves the gradients in their places.
Step = Callable[[Places, Inputs], Seen]


class LaneModel:
    """A model of the signature, whose parameters, buffers and dropout masks come from outside."""

    def __init__(self, model: nn.Module, task: Task, layout: Layout) -> None:
        # deep, so that the trial that lent it may train alone
        self.model = copy.deepcopy(model)
        #: Of all its parameters, in its order.
        self.names = [name for name, _ in model.named_parameters()]
        self.layout, self._task = layout, task
        self._masks: list[tuple[Tensor, Tensor, Tensor]] = []
        self._site = 0
        dropout.take_over(self.model, self._drop)
        self._own_loss = type(task).loss is not Task.loss

    def _drop(self, module: dropout.KeyedDropout, x: Tensor) -> Tensor:
        random, threshold, scale = self._masks[self._site]
        self._site += 1
        return apply(Dropout, x, random[: x.numel()].view(x.shape), threshold, scale)

    def forward(self, tensors: dict[str, Tensor], x: Tensor, masks: list[Any]) -> Tensor:
        """Return one lane's outputs; called within `vmap`."""
        self._masks, self._site = masks, 0
        with LaneOps():
            return functional_call(self.model, tensors, (x,))  # type: ignore[no-any-return]

    def losses(self, outputs: Tensor, y: Tensor, smoothing: Tensor) -> Tensor:
        """Return the mean loss [K] of every lane; outputs and targets are [K, B, …]."""
        if self._own_loss:
            return vmap(self._task.loss)(outputs, y)
        if self._task.kind == "regression":
            return (outputs - y.view_as(outputs)).square().flatten(1).mean(1)
        if outputs.dim() == 3 and y.dim() == 2 and outputs.shape[-1] > 1:
            return apply(CrossEntropy, outputs, y, smoothing)
        return vmap(self._task.loss)(outputs, y)

    def step(self, sites: list[int]) -> Step:
        """Return the step of all lanes, whose dropout modules have so many elements each."""
        names, others = [one.name for one in self.layout.slices], self.layout.others

        def step(places: Places, inputs: Inputs) -> Seen:
            x, y, smoothing, random, thresholds, scales = inputs
            weights = [one.detach().requires_grad_() for one in places.weights]
            masks, first = [], 0
            for site, size in enumerate(sites):
                masks.append(
                    (random[:, first : first + size], thresholds[:, site], scales[:, site])
                )
                first += -(-size // 4) * 4
            tensors = dict(zip((*names, *others), (*weights, *places.stacks), strict=True))
            outputs = vmap(self.forward)(tensors, x, masks)
            losses = self.losses(outputs, y, smoothing)
            grads = torch.autograd.grad(
                losses,
                weights,
                grad_outputs=torch.ones_like(losses),
                allow_unused=True,
                materialize_grads=True,
            )
            for place, grad in zip(places.grads, grads, strict=True):
                place.copy_(grad)
            return losses.detach(), outputs.detach()

        return step

    def outputs(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        """Return the outputs [K, N, …] of all lanes on the same examples [N, …]."""
        return vmap(lambda one, x: self.forward(one, x, []), in_dims=(0, None))(tensors, x)


def trace(step: Step, places: Places, inputs: Inputs) -> tuple[Step, Seen]:
    """Do a step; return it as a flat program for tensors of these shapes, and what is seen of it.

    Raises:
        RuntimeError: what it does depends on the values of a tensor.
    """
    flat = [*places.all(), *inputs]
    with torch.enable_grad():
        program, seen = record(step, flat, (places, inputs))

    def replay(places: Places, inputs: Inputs) -> Seen:
        result: Seen = program(*places.weights, *places.stacks, *places.grads, *inputs)
        return result

    return replay, seen
