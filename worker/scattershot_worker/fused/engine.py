"""Owns the training of a pack: all lanes go through an epoch together, each in its own order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from scattershot_common.seeds import derive
from scattershot_common.task.task import Data, Part, Task
from scattershot_worker.fused.cuda_graph import CudaGraph, Graph, Replay
from scattershot_worker.fused.evaluation import Evaluations, Evaluator
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.lane_activations import LaneActivations
from scattershot_worker.fused.lane_monitor import LaneMonitor
from scattershot_worker.fused.lane_storage import LaneStorage
from scattershot_worker.fused.layout import Layout
from scattershot_worker.fused.program import Inputs, LaneModel, Places, Seen, Step, trace
from scattershot_worker.fused.signature import Signature
from scattershot_worker.fused.updates import LaneUpdates
from scattershot_worker.training import dropout
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.evaluation import Evaluation
from scattershot_worker.training.training import Training

log = logging.getLogger("scattershot.worker")

#: The fewest rows of a program: kernels for a single one add up in another order.
_NARROWEST = 2

#: Steps by width and batch size.
Programs = dict[tuple[int, int], Step]


@dataclass(frozen=True)
class _Crew:
    """What steps work on for as long as the same lanes lie in the same rows.

    Columns are [W] or [W, sites], for all rows of the program, idle ones too.
    """

    key: tuple[object, ...]
    lanes: list[Lane]
    places: Places
    updates: LaneUpdates
    smoothing: Tensor
    thresholds: Tensor
    scales: Tensor


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
        self.bank: LaneStorage | None = None
        self._model: LaneModel | None = None
        self._evaluator: Evaluator | None = None
        self._looker: LaneActivations | None = None
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
        self._crew: _Crew | None = None
        self._spread = dropout.counters(0, 0, self._x.device)
        #: Whether to look at gradients and updates, and what was seen of the last epoch.
        self.monitors = False
        self._watch: LaneMonitor | None = None

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
            self.bank = LaneStorage(layout, lane.training, _NARROWEST)
            self._model = LaneModel(lane.training.model, self._task, layout)
            self._evaluator = Evaluator(self._task, self._model)
            self._looker = LaneActivations(self._model)
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
        self, lane: Lane, x: Tensor, evaluation: Evaluation
    ) -> tuple[dict[str, float], dict[str, Any] | None]:
        """Return what was seen of a lane's last epoch; see `LaneMonitor.end_epoch`."""
        if self._watch is None or lane.seat is None:
            return {}, None
        return self._watch.end_epoch(lane.training, lane.seat.row, x, evaluation)

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
        crew = self._crew = self._crew_of([*self._lanes])
        device, count, size = self._x.device, len(self._x), self.signature.batch_size
        orders = self._orders(crew.lanes).to(device)
        keys = [dropout.key(lane.training.seed, lane.training.epoch) for lane in crew.lanes]
        keys_ = torch.tensor(keys + [0] * (self._width - len(keys)), device=device)
        totals = torch.zeros(self._width, device=device)
        steps = -(-count // size)
        watch = self._watch = self._watch_of(crew.lanes, steps)
        weights, grads = self.bank.weights[: self._width], crew.places.grads
        crew.updates.begin_epoch()
        for step, first in enumerate(range(0, count, size)):
            check()
            crew.updates.begin_step(step, steps)
            index = orders[:, first : first + size]
            shape = index.shape
            flat = index.reshape(-1)
            x = self._x.index_select(0, flat).view(*shape, *self._x.shape[1:])
            y = self._y.index_select(0, flat).view(*shape, *self._y.shape[1:])
            if step == 0 and watch is not None:
                watch.begin(x)
            random = self._random(keys_, step, shape[1])
            losses, outputs = self._step(
                crew.places, (x, y, crew.smoothing, random, crew.thresholds, crew.scales)
            )
            shown = watch if watch is not None and step >= watch.first else None
            if shown is not None:
                shown.gradients(step, losses, outputs, y, weights, grads)
            crew.updates.step()
            if shown is not None:
                shown.updated(step, weights)
            totals += losses * shape[1]
        totals /= count
        self._row_s = (time.perf_counter() - begun) / self._width
        return {
            lane: total
            for lane, total in zip(crew.lanes, totals.tolist(), strict=False)
            if lane.seat is not None
        }

    def _watch_of(self, lanes: list[Lane], steps: int) -> LaneMonitor | None:
        if not self.monitors:
            return None
        assert self.bank is not None and self._looker is not None
        trainings, size = (lane.training for lane in lanes), self.signature.batch_size
        return LaneMonitor(self._task, self._looker, self.bank, trainings, steps, size)

    def _orders(self, lanes: list[Lane]) -> Tensor:
        """Return the order [W, N] in which each row goes through the data in this epoch."""
        orders = torch.zeros(self._width, len(self._x), dtype=torch.int64)
        for row, lane in enumerate(lanes):
            seed = derive(lane.training.seed, "order", lane.training.epoch)
            generator = torch.Generator().manual_seed(seed)
            torch.randperm(len(self._x), generator=generator, out=orders[row])
        return orders

    def _crew_of(self, lanes: list[Lane]) -> _Crew:
        """Return the crew of the lanes in the first rows: the one before, where nothing changed."""
        bank = self.bank
        assert bank is not None
        key = (self._width, bank.capacity, len(bank.averages), *(id(lane.seat) for lane in lanes))
        if self._crew is not None and self._crew.key == key:
            return self._crew
        width = self._width
        weights = [*bank.layout.views(bank.weights[:width]).values()]
        stacks, grads = (
            [one[:width] for one in some.values()] for some in (bank.stacks, bank.grads)
        )
        updates = LaneUpdates(bank, lanes)
        places = Places(weights, stacks, grads)
        return _Crew(key, lanes, places, updates, *self._columns(lanes))

    def _columns(self, lanes: list[Lane]) -> tuple[Tensor, Tensor, Tensor]:
        """Return label smoothing [W], and each site's dropout thresholds and scales [W, sites]."""
        assert self.bank is not None
        sites, dtype, device = len(self.signature.sites), self.bank.weights.dtype, self._x.device
        smoothing = torch.zeros(self._width, dtype=dtype)
        thresholds = torch.full((self._width, max(sites, 1)), 32767, dtype=torch.int16)
        scales = torch.ones(self._width, max(sites, 1), dtype=dtype)
        for row, lane in enumerate(lanes):
            smoothing[row] = lane.training.settings.label_smoothing
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

    def _step(self, places: Places, inputs: Inputs) -> Seen:
        """Do a step, by the program that there is for its shape or will be."""
        assert self._model is not None
        batch = inputs[0].shape[1]
        key = (self._width, batch)
        if program := self.programs.get(key):
            return self._replayed(key, program, places, inputs)
        step = self._model.step([size * batch for _, size in self.signature.sites])
        begun = time.perf_counter()
        self.programs[key], seen = trace(step, places, inputs)
        self._trace_s = time.perf_counter() - begun
        return seen

    def _replayed(
        self, key: tuple[int, int], program: Step, places: Places, inputs: Inputs
    ) -> Seen:
        """Do a traced step, as a graph where the device has them."""
        if self._graph is None:
            return program(places, inputs)
        replay = self._replays.get(key)
        if replay is None or not replay.fits(places):
            try:
                replay = Replay(program, self._graph(), places, inputs)
            except RuntimeError as error:  # an operation that cannot be captured
                log.warning("trained without a device graph: %s", str(error).splitlines()[0])
                self._graph = None
                return program(places, inputs)
            self._replays[key] = replay
        return replay(inputs)

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

    def evaluate(
        self, part: Part, check: Callable[[], None], *, averaged: bool = False
    ) -> Evaluations:
        """Return what every lane comes to on a part of the data; see `evaluation`.

        With `averaged` it is the lanes that average their weights, with these.
        """
        lanes = [lane for lane in self.lanes if not averaged or lane.training.average is not None]
        if not lanes:
            return {}
        assert self.bank is not None and self._evaluator is not None
        return self._evaluator.evaluate(self.bank, lanes, part, check, averaged=averaged)
