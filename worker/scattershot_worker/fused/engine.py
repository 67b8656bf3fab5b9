"""Owns the training of a pack: all lanes go through an epoch together, each in its own order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from scattershot.seeds import derive
from scattershot.task import Data, Part, Task
from scattershot_worker import dropout
from scattershot_worker.fused.bank import Bank, Seat
from scattershot_worker.fused.evaluation import Results, evaluate_lanes
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.layout import Layout
from scattershot_worker.fused.program import Inputs, LaneModel, Places, Step, trace
from scattershot_worker.fused.replay import CudaGraph, Graph, Replay
from scattershot_worker.fused.signature import Signature
from scattershot_worker.fused.watching import LaneWatch
from scattershot_worker.trainer import tensors_of
from scattershot_worker.training import Training

log = logging.getLogger("scattershot.worker")

#: The fewest rows of a program: kernels for a single one add up in another order.
_NARROWEST = 2

#: Steps by width and batch size.
Programs = dict[tuple[int, int], Step]


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
        self._width = 0
        #: Seconds that idle rows have cost since the width was chosen, that a row's epoch takes,
        #: and that tracing took last.
        self._wasted = self._row_s = 0.0
        self._trace_s = 0.05
        self._places: Places | None = None
        self._grads = torch.zeros(0)
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
        return Lane(training)

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
        lane.bank = self.bank

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
        self._place()
        grads = self._grads[: self._width]
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
            losses = self._step((x, y, smoothing, random, thresholds, scales))
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

    def _step(self, inputs: Inputs) -> Tensor:
        """Do a step; return the losses [W]. The gradients are in `_grads` then."""
        assert self._places is not None and self._model is not None
        batch = inputs[0].shape[1]
        key = (self._width, batch)
        if program := self.programs.get(key):
            return self._replayed(key, program, inputs)
        step = self._model.step([size * batch for _, size in self.signature.sites])
        begun = time.perf_counter()
        self.programs[key], losses = trace(step, self._places, inputs)
        self._trace_s = time.perf_counter() - begun
        return losses

    def _replayed(self, key: tuple[int, int], program: Step, inputs: Inputs) -> Tensor:
        """Do a traced step, as a graph where the device has them."""
        assert self._places is not None
        if self._graph is None:
            return program(self._places, inputs)
        replay = self._replays.get(key)
        if replay is None or not replay.fits(self._places):
            try:
                replay = Replay(program, self._graph(), self._places, inputs)
            except RuntimeError as error:  # an operation that cannot be captured
                log.warning("trained without a device graph: %s", str(error).splitlines()[0])
                self._graph = None
                return program(self._places, inputs)
            self._replays[key] = replay
        return replay(inputs)

    def _place(self) -> None:
        """Have the places that a step of the epoch's width works on."""
        assert self.bank is not None
        width, layout = self._width, self.bank.layout
        if len(self._grads) < width:
            self._grads = torch.zeros_like(self.bank.weights)
        rows = (self.bank.weights[:width], self._grads[:width])
        weights, grads = ([*layout.views(one).values()] for one in rows)
        self._places = Places(weights, [one[:width] for one in self.bank.stacks.values()], grads)

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

    def evaluate(self, part: Part, check: Callable[[], None], *, averaged: bool = False) -> Results:
        """Return what every lane comes to on a part of the data; see `evaluation`.

        With `averaged` it is the lanes that average their weights, with these.
        """
        lanes = [lane for lane in self.lanes if not averaged or lane.training.ema is not None]
        if not lanes:
            return {}
        assert self.bank is not None and self._model is not None
        about = (self._task, self._model, self.bank, lanes, part, check)
        return evaluate_lanes(*about, averaged=averaged)
