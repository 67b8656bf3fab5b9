"""Owns the step as one program: forward, loss and backward of all lanes, traced once, replayed.

`make_fx` records the operations of one step of `vmap(functional_call(model))`; replaying them skips
autograd, modules and `vmap` itself, whose overhead is most of what small networks cost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from scattershot.task import Task
from scattershot_worker import dropout
from scattershot_worker.fused.lane_ops import CrossEntropy, LaneOps, apply
from scattershot_worker.fused.layout import Layout

#: weights [K, P], stacks, x [K, B, …], y [K, B, …], smoothing [K], random int16 [K, R],
#: thresholds and scales [K, sites] → losses [K], gradients [K, P]
Step = Callable[..., tuple[Tensor, Tensor]]


class LaneModel:
    """A model of the signature, whose parameters, buffers and dropout masks come from outside."""

    def __init__(
        self, model: nn.Module, task: Task, layout: Layout, lane_aware: bool = True
    ) -> None:
        # deep, so that the trial that lent it may train alone
        self.model = copy.deepcopy(model)
        self.layout, self._task = layout, task
        self._masks: list[tuple[Tensor, Tensor, Tensor]] = []
        self._site = 0
        dropout.take_over(self.model, self._drop)
        self._own_loss = type(task).loss is not Task.loss

    def _drop(self, module: dropout.KeyedDropout, x: Tensor) -> Tensor:
        random, threshold, scale = self._masks[self._site]
        self._site += 1
        return dropout.apply(x, random[: x.numel()].view(x.shape), threshold, scale)

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
        if outputs.dim() == 3 and y.dim() == 2:
            return apply(CrossEntropy, outputs, y, smoothing)
        return vmap(self._task.loss)(outputs, y)

    def step(self, sites: list[int]) -> Step:
        """Return the step of all lanes, whose dropout modules have so many elements each."""
        layout, names = self.layout, self.layout.others

        def step(
            weights: Tensor,
            stacks: list[Tensor],
            x: Tensor,
            y: Tensor,
            smoothing: Tensor,
            random: Tensor,
            thresholds: Tensor,
            scales: Tensor,
        ) -> tuple[Tensor, Tensor]:
            trained = {
                name: view.detach().requires_grad_() for name, view in layout.views(weights).items()
            }
            masks, first = [], 0
            for site, size in enumerate(sites):
                masks.append(
                    (random[:, first : first + size], thresholds[:, site], scales[:, site])
                )
                first += -(-size // 4) * 4
            tensors = {**trained, **dict(zip(names, stacks, strict=True))}
            outputs = vmap(self.forward)(tensors, x, masks)
            losses = self.losses(outputs, y, smoothing)
            grads = torch.autograd.grad(
                losses.sum(), [*trained.values()], allow_unused=True, materialize_grads=True
            )
            flat = [grad.reshape(len(weights), -1) for grad in grads]
            end = layout.slices[-1].end
            if layout.width > end:
                flat.append(flat[0].new_zeros(len(weights), layout.width - end))
            return losses.detach(), torch.cat(flat, 1)

        return step

    def evaluator(self) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
        """Return the function of all lanes' tensors and examples [N, …] to outputs [K, N, …]."""

        def evaluate(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            return vmap(lambda one, x: self.forward(one, x, []), in_dims=(0, None))(tensors, x)

        return evaluate


def trace(step: Step, arguments: tuple[Any, ...]) -> Step:
    """Return the step as a flat list of operations, for arguments of these shapes."""
    with torch.enable_grad():
        traced = make_fx(step)(*arguments)
    return _pruned(traced)


def _pruned(traced: GraphModule) -> GraphModule:
    """Leave out what a replay does not need, and call what is left by its quickest name."""
    aten, graph = torch.ops.aten, traced.graph
    for node in [*graph.nodes]:
        if (
            node.op != "call_function"
            or not node.args
            or not isinstance(node.args[0], torch.fx.Node)
        ):
            continue
        source = node.args[0]
        same = node.target in (aten.detach.default, aten.alias.default)
        if node.target in (aten.view.default, aten._unsafe_view.default, aten.expand.default):
            before, after = source.meta.get("val"), node.meta.get("val")
            same = (
                before is not None
                and after is not None
                and before.shape == after.shape
                and before.stride() == after.stride()
            )
        if same:
            node.replace_all_uses_with(source)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.op == "call_function" and node.target in _QUICK and not node.kwargs:
            node.target = _QUICK[node.target]
    traced.recompile()
    return traced


def _quick() -> dict[Any, Any]:
    aten, tensor = torch.ops.aten, torch.Tensor
    return {
        aten.view.default: tensor.view,
        aten._unsafe_view.default: tensor.view,
        aten.transpose.int: tensor.transpose,
        aten.unsqueeze.default: tensor.unsqueeze,
        aten.expand.default: tensor.expand,
        aten.permute.default: tensor.permute,
        aten.select.int: tensor.select,
        aten.bmm.default: torch.bmm,
        aten.baddbmm.default: torch.baddbmm,
        aten.relu.default: torch.relu,
        aten.mul.Tensor: torch.mul,
        aten.add.Tensor: torch.add,
        aten.sub.Tensor: torch.sub,
        aten.div.Tensor: torch.div,
        aten.cat.default: torch.cat,
        aten.stack.default: torch.stack,
        aten.exp.default: torch.exp,
        aten.clone.default: torch.clone,
    }


#: Operations that a replay calls by a name with less of a way to go.
_QUICK = _quick()
