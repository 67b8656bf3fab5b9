"""The training step as one program: forward, loss and backward of all lanes, traced once, replayed.

It is `vmap(functional_call(model))` with lane-aware operations; `op_trace` records its tensor
operations. On a GPU a traced step is captured as a CUDA graph as well, whose kernels are launched
at once. A graph works on fixed addresses: weights and buffers stay where they are, and inputs are
copied to tensors of the graph's own. On a CPU a graph gains nothing; `EagerGraph` stands in for
one there, so that the same code is tested.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from scattershot_common.task.task import Task
from scattershot_worker.fused.lane_functions import apply
from scattershot_worker.fused.lane_ops import CrossEntropy, Dropout, LaneOps
from scattershot_worker.fused.lane_storage import Layout
from scattershot_worker.fused.op_trace import trace
from scattershot_worker.training import dropout

log = logging.getLogger("scattershot.worker")

#: Steps on copies before a graph is captured: libraries choose their kernels in the first ones.
_WARM_UP = 3

#: x [K, B, …], y [K, B, …], smoothing [K], random int16 [K, R], thresholds and scales [K, sites]
StepInputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
#: Losses [K] and outputs [K, B, …] of a step.
StepResult = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class StepBuffers:
    """The tensors a step works on: views of the rows, all [K, …], in the layout's order.

    Gradients are written to; stacks as the model's modules write to their buffers.
    """

    weights: list[Tensor]
    stacks: list[Tensor]
    grads: list[Tensor]

    def tensors(self) -> list[Tensor]:
        """Return all tensors."""
        return [*self.weights, *self.stacks, *self.grads]

    def clone(self) -> StepBuffers:
        """Return copies of all tensors."""
        return StepBuffers(*([tensor.clone() for tensor in part] for part in vars(self).values()))


#: Does a step: returns its result, and writes the gradients into the buffers.
Step = Callable[[StepBuffers, StepInputs], StepResult]
#: Traced steps by rows and batch size.
Programs = dict[tuple[int, int], Step]


class LaneModel:
    """A model of the signature, whose parameters, buffers and dropout masks are arguments."""

    def __init__(self, model: nn.Module, task: Task, layout: Layout) -> None:
        # a deep copy, so that the trial whose model it is may still train alone
        self.model = copy.deepcopy(model)
        #: Names of all its parameters, in its order.
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

    def step(self, sites: Sequence[int]) -> Step:
        """Return the step of all lanes; `sites` are the elements of each dropout module's input."""
        names, stacked = [part.name for part in self.layout.slices], self.layout.stacked

        def step(buffers: StepBuffers, inputs: StepInputs) -> StepResult:
            x, y, smoothing, random, thresholds, scales = inputs
            weights = [rows.detach().requires_grad_() for rows in buffers.weights]
            masks, first = [], 0
            for site, size in enumerate(sites):
                masks.append(
                    (random[:, first : first + size], thresholds[:, site], scales[:, site])
                )
                first += -(-size // 4) * 4
            tensors = dict(zip((*names, *stacked), (*weights, *buffers.stacks), strict=True))
            outputs = vmap(self.forward)(tensors, x, masks)
            losses = self.losses(outputs, y, smoothing)
            grads = torch.autograd.grad(
                losses,
                weights,
                grad_outputs=torch.ones_like(losses),
                allow_unused=True,
                materialize_grads=True,
            )
            for buffer, grad in zip(buffers.grads, grads, strict=True):
                buffer.copy_(grad)
            return losses.detach(), outputs.detach()

        return step

    def outputs(self, tensors: dict[str, Tensor], x: Tensor) -> Tensor:
        """Return the outputs [K, N, …] of all lanes on the same examples [N, …]."""
        forward = vmap(lambda lane, x: self.forward(lane, x, []), in_dims=(0, None))
        return forward(tensors, x)


def trace_step(step: Step, buffers: StepBuffers, inputs: StepInputs) -> tuple[Step, StepResult]:
    """Do a step; return it as a flat program for tensors of these shapes, and its result.

    Raises:
        RuntimeError: what it does depends on the values of a tensor.
    """
    flat = [*buffers.tensors(), *inputs]
    with torch.enable_grad():
        program, result = trace(step, flat, (buffers, inputs))

    def replay(buffers: StepBuffers, inputs: StepInputs) -> StepResult:
        replayed: StepResult = program(*buffers.weights, *buffers.stacks, *buffers.grads, *inputs)
        return replayed

    return replay, result


class DeviceGraph(Protocol):
    """Work of a device that is captured once and replayed."""

    def capture(self, work: Callable[[], None]) -> None:
        """Capture what `work` does on the device, without its taking effect."""

    def replay(self) -> None:
        """Do it."""


class CudaGraph:
    """A CUDA graph."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, work: Callable[[], None]) -> None:
        """Capture the kernels that `work` launches."""
        with torch.cuda.graph(self._graph):
            work()

    def replay(self) -> None:
        """Launch them."""
        self._graph.replay()


class EagerGraph:
    """A graph for devices that have none: a replay does the work again."""

    def __init__(self) -> None:
        self._work: Callable[[], None] = lambda: None

    def capture(self, work: Callable[[], None]) -> None:
        """Keep the work."""
        self._work = work

    def replay(self) -> None:
        """Do the work."""
        self._work()


class GraphReplay:
    """A traced step on given buffers, captured as a device graph."""

    def __init__(
        self, step: Step, graph: DeviceGraph, buffers: StepBuffers, inputs: StepInputs
    ) -> None:
        self._graph = graph
        self._addresses = _addresses(buffers)
        self._inputs = cast(StepInputs, tuple(tensor.clone() for tensor in inputs))
        self._result: StepResult | None = None
        for _ in range(_WARM_UP):
            step(buffers.clone(), self._inputs)

        def work() -> None:
            self._result = step(buffers, self._inputs)

        graph.capture(work)

    def fits(self, buffers: StepBuffers) -> bool:
        """Return whether these buffers are where they were captured."""
        return _addresses(buffers) == self._addresses

    def __call__(self, inputs: StepInputs) -> StepResult:
        """Do the step on these inputs; the next call overwrites what is returned."""
        for captured, tensor in zip(self._inputs, inputs, strict=True):
            captured.copy_(tensor)
        self._graph.replay()
        assert self._result is not None
        return self._result


def _addresses(buffers: StepBuffers) -> list[int]:
    return [tensor.data_ptr() for tensor in buffers.tensors()]


class StepRunner:
    """Does steps of any shape: the first of a shape is traced, later ones are replayed."""

    def __init__(
        self, sites: Sequence[int], programs: Programs, graph: Callable[[], DeviceGraph] | None
    ) -> None:
        """Take each dropout module's elements per example, and the programs traced so far.

        `graph` makes device graphs, where the device has them.
        """
        self._sites, self._programs, self._graph = sites, programs, graph
        self._replays: dict[tuple[int, int], GraphReplay] = {}
        #: Seconds that the last tracing took.
        self.trace_seconds = 0.05

    def run(self, model: LaneModel, buffers: StepBuffers, inputs: StepInputs) -> StepResult:
        """Do a step; a replay overwrites the result of the one before it."""
        x = inputs[0]
        key = (x.shape[0], x.shape[1])
        if program := self._programs.get(key):
            return self._replay(key, program, buffers, inputs)
        step = model.step([size * x.shape[1] for size in self._sites])
        started = time.perf_counter()
        self._programs[key], result = trace_step(step, buffers, inputs)
        self.trace_seconds = time.perf_counter() - started
        return result

    def _replay(
        self, key: tuple[int, int], program: Step, buffers: StepBuffers, inputs: StepInputs
    ) -> StepResult:
        """Do a traced step, as a graph where the device has them."""
        if self._graph is None:
            return program(buffers, inputs)
        replay = self._replays.get(key)
        if replay is None or not replay.fits(buffers):
            try:
                replay = GraphReplay(program, self._graph(), buffers, inputs)
            except RuntimeError as error:  # an operation that cannot be captured
                log.warning("trained without a device graph: %s", str(error).splitlines()[0])
                self._graph = None
                return program(buffers, inputs)
            self._replays[key] = replay
        return replay(inputs)
