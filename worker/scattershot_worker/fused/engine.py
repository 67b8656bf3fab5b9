"""Owns the training of a pack: all lanes go through an epoch together, each in its own order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scattershot.seeds import derive
from scattershot.task import Data, Part, Task
from scattershot_worker import dropout
from scattershot_worker.fused.bank import Bank, Seat
from scattershot_worker.fused.layout import Layout
from scattershot_worker.fused.program import LaneModel, Step, trace
from scattershot_worker.fused.replay import CudaGraph, Graph, Replay
from scattershot_worker.fused.signature import Signature
from scattershot_worker.fused.watching import LaneWatch
from scattershot_worker.trainer import tensors_of
from scattershot_worker.training import Training

log = logging.getLogger("scattershot.worker")

#: The fewest rows of a program: kernels for a single one add up in another order.
_NARROWEST = 2
#: Steps of one shape that are done without a program before one is traced for it.
_UNTRACED = 40
_EVALUATION_BATCH = 1024

#: Steps by width and batch size.
Programs = dict[tuple[int, int], Step]
Results = dict["Lane", tuple[dict[str, float], Tensor, Tensor]]


class _Part:
    """A lane's model or optimizer as a checkpoint sees it."""

    def __init__(self, lane: Lane, name: str) -> None:
        self._lane, self._name = lane, name

    def state_dict(self) -> Mapping[str, Any]:
        return self._lane.state(self._name)

    def load_state_dict(self, state: Any) -> object:
        return self._lane.training.parts[self._name].load_state_dict(state)


class Lane:
    """A trial in a pack. Before it is admitted its state is that of its `Training`."""

    def __init__(self, engine: Engine, training: Training) -> None:
        self.training = training
        self._engine = engine
        self.seat: Seat | None = None
        #: The trial's parts as its checkpoints have them, by name.
        self.parts = {name: _Part(self, name) for name in training.parts}

    def state(self, part: str) -> Mapping[str, Any]:
        """Return the state of one part, in the words of the trial alone."""
        bank = self._engine.bank
        if self.seat is None or bank is None:
            state: Mapping[str, Any] = self.training.parts[part].state_dict()
            return state
        if part == "model":
            return bank.model_state(self.seat)
        if part == "ema":
            return bank.averages_of(self.seat)
        return bank.optimizer_state(self.seat)


@dataclass(frozen=True)
class _Update:
    """What one lane's update works on for an epoch.

    `rows` are the views of each parameter group: weights, both moments, steps.
    """

    lane: Lane
    seat: Seat
    rows: list[tuple[Tensor, ...]]
    weights: Tensor
    average: Tensor | None


class Engine:
    """Lanes of one signature on one device. The numbers of a lane do not depend on the others."""

    def __init__(
        self,
        task: Task,
        data: Data,
        signature: Signature,
        programs: Programs | None = None,
        graph: Callable[[], Graph] | None = None,
    ) -> None:
        """Take the task, its data as tensors on their device, and what the lanes have in common.

        `programs` are those that another engine of this signature has traced; `graph` makes what
        replays a step (on a GPU a CUDA graph, unless another is given).
        """
        self.signature = signature
        self._task, self._data = task, data
        self._x, self._y = tensors_of(data.train)
        self.bank: Bank | None = None
        self._model: LaneModel | None = None
        self._lanes: list[Lane] = []
        self.programs: Programs = {} if programs is None else programs
        #: Makes graphs of the device, where it has them, and those captured by width and batch.
        self._graph = graph or (CudaGraph if self._x.device.type == "cuda" else None)
        self._replays: dict[tuple[int, int], Replay] = {}
        self._untraced: dict[tuple[int, int], int] = {}
        self._width = 0
        #: Seconds that idle rows have cost since the width was chosen, that a row's epoch takes,
        #: and that tracing took last.
        self._wasted = self._row_s = 0.0
        self._trace_s = 0.2
        self._spread = dropout.counters(0, 0, self._x.device)
        #: Whether to look at gradients and updates, and what was seen of the last epoch.
        self.monitors = False
        self.watch: LaneWatch | None = None

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that are trained."""
        return [lane for lane in self._lanes if lane.seat is not None]

    def lane(self, training: Training) -> Lane:
        """Return a trial as a lane that is not admitted yet."""
        return Lane(self, training)

    def admit(self, lane: Lane) -> None:
        """Give a lane a row with what its trial has by now; between epochs only."""
        if self.bank is None or self._model is None:
            layout = Layout.of(lane.training)
            self.bank = Bank(layout, lane.training, _NARROWEST)
            self._model = LaneModel(lane.training.model, self._task, layout)
        self._close_ranks()
        self._lanes.append(lane)
        self.bank.reserve(max(len(self._lanes), _NARROWEST))
        lane.seat = self.bank.seat(lane.training, len(self._lanes) - 1)

    def release(self, lane: Lane) -> None:
        """Let a lane go, at any time; what its row holds no longer matters."""
        lane.seat = None

    def _close_ranks(self) -> None:
        """Move the lanes to the first rows."""
        assert self.bank is not None
        self._lanes = self.lanes
        for row, lane in enumerate(self._lanes):
            if lane.seat is not None and lane.seat.row != row:
                self.bank.move(lane.seat.row, row)
                lane.seat.row = row

    def seen(
        self, lane: Lane, x: Tensor, outputs: Tensor
    ) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Return what was seen of a lane's last epoch; see `LaneWatch.end_epoch`."""
        if self.watch is None or lane.seat is None:
            return {}, None
        state = lane.state("model")
        return self.watch.end_epoch(lane.training, lane.seat.row, state, x, outputs)

    # ---- an epoch

    @torch.no_grad()
    def train_epoch(self, check: Callable[[], None]) -> dict[Lane, float]:
        """Train every lane for the epoch that its trial has begun; return their mean losses.

        `check` is called before every batch; lanes may be released in it.
        """
        begun = time.perf_counter()
        self._close_ranks()
        assert self.bank is not None
        self._fit_width(len(self._lanes))
        lanes, device, count = [*self._lanes], self._x.device, len(self._x)
        orders = torch.zeros(self._width, count, dtype=torch.int64)
        for row, lane in enumerate(lanes):
            training = lane.training
            generator = torch.Generator().manual_seed(
                derive(training.seed, "order", training.epoch)
            )
            torch.randperm(count, generator=generator, out=orders[row])
        orders = orders.to(device)
        keys = [dropout.key(lane.training.seed, lane.training.epoch) for lane in lanes]
        keys_ = torch.tensor(keys + [0] * (self._width - len(lanes)), device=device)
        for lane in lanes:
            if lane.seat is not None:
                lane.seat.prepare()
        totals = torch.zeros(self._width, device=device)
        size = self.signature.batch_size
        smoothing, thresholds, scales = self._columns(lanes)
        steps = -(-count // size)
        moving = [lane for lane in lanes if lane.training.how.moves]
        updates = self._updates(lanes)
        watch = self.watch = LaneWatch(self.bank.layout, steps) if self.monitors else None
        for step, first in enumerate(range(0, count, size)):
            check()
            for lane in moving:
                lane.training.begin_step(step, steps)
                if lane.seat is not None:
                    lane.seat.prepare()
            index = orders[:, first : first + size]
            shape = (self._width, index.shape[1])
            flat = index.reshape(-1)
            x = self._x.index_select(0, flat).view(*shape, *self._x.shape[1:])
            y = self._y.index_select(0, flat).view(*shape, *self._y.shape[1:])
            random = self._random(keys_, step, shape[1])
            losses, grads = self._step(x, y, smoothing, random, thresholds, scales)
            if watch is not None:
                watch.gradients(step, losses, self.bank.weights[: self._width], grads)
            self._update(updates, grads)
            if watch is not None:
                watch.updated(step, self.bank.weights[: self._width])
            totals += losses * shape[1]
        totals /= count
        self._row_s = (time.perf_counter() - begun) / self._width
        return {
            lane: total
            for lane, total in zip(lanes, totals.tolist(), strict=False)
            if lane.seat is not None
        }

    def _columns(self, lanes: list[Lane]) -> tuple[Tensor, Tensor, Tensor]:
        """Return label smoothing [W], and each site's dropout thresholds and scales [W, sites]."""
        assert self.bank is not None
        sites, dtype, device = len(self.signature.sites), self.bank.weights.dtype, self._x.device
        smoothing = torch.zeros(self._width, dtype=dtype)
        thresholds = torch.full((self._width, max(sites, 1)), 32767, dtype=torch.int16)
        scales = torch.ones(self._width, max(sites, 1), dtype=dtype)
        for row, lane in enumerate(lanes):
            smoothing[row] = lane.training.how.label_smoothing
            modules = dict(lane.training.model.named_modules())
            for site, (name, _) in enumerate(self.signature.sites):
                threshold, scale = dropout.rule(cast(nn.Dropout, modules[name]).p)
                thresholds[row, site], scales[row, site] = max(threshold, -32768), scale
        return smoothing.to(device), thresholds.to(device), scales.to(device)

    def _random(self, keys: Tensor, step: int, batch: int) -> Tensor:
        """Return the bits of a step for all dropout modules, one after the other."""
        count = sum(-(-size * batch // 4) for _, size in self.signature.sites)
        if count > len(self._spread):
            self._spread = dropout.counters(0, count, keys.device)
        return dropout.bits(dropout.starts(keys, step), self._spread[:count])

    def _step(self, x: Tensor, y: Tensor, *columns: Tensor) -> tuple[Tensor, Tensor]:
        assert self.bank is not None and self._model is not None
        weights = self.bank.weights[: self._width]
        stacks = [stack[: self._width] for stack in self.bank.stacks.values()]
        key = (self._width, x.shape[1])
        if program := self.programs.get(key):
            return self._replayed(key, program, weights, stacks, x, y, *columns)
        step = self._model.step([size * x.shape[1] for _, size in self.signature.sites])
        self._untraced[key] = self._untraced.get(key, 0) + 1
        if x.shape[1] == self.signature.batch_size or self._untraced[key] > _UNTRACED:
            copies = [stack.clone() for stack in stacks]  # tracing does a step of its own
            begun = time.perf_counter()
            self.programs[key] = trace(step, (weights, copies, x, y, *columns))
            self._trace_s = time.perf_counter() - begun
            return self.programs[key](weights, stacks, x, y, *columns)
        with torch.enable_grad():
            return step(weights, stacks, x, y, *columns)

    def _replayed(
        self,
        key: tuple[int, int],
        program: Step,
        weights: Tensor,
        stacks: list[Tensor],
        *inputs: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Do a traced step, as a graph where the device has them."""
        if self._graph is None:
            return program(weights, stacks, *inputs)
        replay = self._replays.get(key)
        if replay is None or not replay.fits(weights, stacks):
            try:
                replay = Replay(program, self._graph(), weights, stacks, *inputs)
            except RuntimeError as error:  # an operation that cannot be captured
                log.warning("trained without a device graph: %s", str(error).splitlines()[0])
                self._graph = None
                return program(weights, stacks, *inputs)
            self._replays[key] = replay
        return replay(weights, stacks, *inputs)

    def _updates(self, lanes: list[Lane]) -> list[_Update]:
        """Return what every lane's update of this epoch works on."""
        assert self.bank is not None
        bank, groups = self.bank, self.bank.layout.groups
        updates = []
        for lane in lanes:
            seat = lane.seat
            assert seat is not None
            rows = [
                (*(rows[seat.row, a:b] for rows in (bank.weights, bank.one, bank.two)), step)
                for (a, b), step in zip(groups, bank.steps[seat.row].unbind(0), strict=True)
            ]
            average = None if lane.training.ema is None else bank.averages[seat.row]
            updates.append(_Update(lane, seat, rows, bank.weights[seat.row], average))
        return updates

    def _update(self, updates: list[_Update], grads: Tensor) -> None:
        assert self.bank is not None
        self.bank.steps.add_(1)
        by_group = [grads[:, a:b].unbind(0) for a, b in self.bank.layout.groups]
        for one in updates:
            seat, how = one.seat, one.lane.training.how
            if one.lane.seat is None:
                continue
            at, rule = seat.row, seat.rule.update
            if how.clip_norm is not None:
                norm = torch.linalg.vector_norm(grads[at])
                grads[at].mul_((how.clip_norm / (norm + 1e-6)).clamp(max=1.0))
            if how.clip_value is not None:
                grads[at].clamp_(-how.clip_value, how.clip_value)
            for (row, first, second, step), each, now in zip(
                one.rows, by_group, seat.now, strict=True
            ):
                rule(row, each[at], first, second, step, now)
            seat.stepped()
            if one.average is not None and how.ema is not None:
                one.average.lerp_(one.weights, 1 - how.ema)

    # ---- how wide

    def _fit_width(self, lanes: int) -> None:
        """Choose the program's width: narrower ones are traced once they would have paid."""
        assert self.bank is not None
        exact = max(lanes, _NARROWEST)
        size = self.signature.batch_size
        traced = [width for width, batch in self.programs if batch == size and width >= exact]
        width = min(traced, default=exact)
        if width != self._width:
            self._wasted = 0.0
        self._wasted += (width - exact) * self._row_s
        if self._wasted > self._trace_s:
            width, self._wasted = exact, 0.0
        self._width = width
        self.bank.reserve(width)

    # ---- evaluation

    @torch.no_grad()
    def evaluate(self, part: Part, check: Callable[[], None], *, averaged: bool = False) -> Results:
        """Return every lane's metrics, outputs [N, …] and targets on the CPU, as `trainer` does.

        With `averaged` it is the lanes that average their weights, with these.
        """
        assert self.bank is not None and self._model is not None
        lanes = [lane for lane in self.lanes if not averaged or lane.training.ema is not None]
        if not lanes:
            return {}
        x, y = tensors_of(part)
        rows = self.bank.averages if averaged else self.bank.weights
        width = max((lane.seat.row + 1 for lane in lanes if lane.seat is not None), default=0)
        tensors = self.bank.layout.views(rows[:width])
        tensors |= {name: stack[:width] for name, stack in self.bank.stacks.items()}
        evaluator = self._model.evaluator()
        self._model.model.eval()
        try:
            outs = []
            for chunk in x.split(_EVALUATION_BATCH):
                check()
                outs.append(evaluator(tensors, chunk))
            outputs = torch.cat(outs, 1)
        finally:
            self._model.model.train()
        losses, correct = self._batched(outputs, y)
        results: Results = {}
        on_cpu, targets = outputs.cpu(), y.cpu()
        for lane in lanes:
            if lane.seat is None:  # released in `check`
                continue
            row = lane.seat.row
            loss = losses[row] if losses else self._task.loss(outputs[row], y).item()
            more = (
                {"accuracy": correct[row] / max(y.numel(), 1)}
                if correct
                else self._task.metrics(outputs[row], y)
            )
            results[lane] = ({"loss": loss, **more}, on_cpu[row], targets)
        return results

    def _batched(self, outputs: Tensor, y: Tensor) -> tuple[list[float], list[int]]:
        """Return losses and right answers of all lanes where the task has left them as they are."""
        kind = type(self._task)
        plain = self._task.kind == "classification" and outputs.dim() == 3 and y.dim() == 1
        losses: list[float] = []
        correct: list[int] = []
        if plain and kind.loss is Task.loss:
            classes = y.expand(len(outputs), -1)
            each = F.cross_entropy(outputs.flatten(0, 1), classes.flatten(), reduction="none")
            losses = each.view(classes.shape).mean(1).tolist()
        if plain and kind.metrics is Task.metrics:
            correct = (outputs.argmax(-1) == y).sum(1).tolist()
        return losses, correct
