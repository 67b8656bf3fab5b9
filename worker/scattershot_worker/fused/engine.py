"""The training of a pack: all lanes go through an epoch together, each in its own order."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from scattershot_common.seeds import derive
from scattershot_common.task.task import Data, Part, Task
from scattershot_worker.engine.engine import Signature, TrainedEpoch
from scattershot_worker.fused.evaluation import Evaluations, Evaluator
from scattershot_worker.fused.lane import ActiveLanes, Lane
from scattershot_worker.fused.lane_monitor import LaneActivations, LaneMonitor
from scattershot_worker.fused.lane_storage import LaneStorage, Layout
from scattershot_worker.fused.program import (
    CudaGraph,
    DeviceGraph,
    LaneModel,
    Programs,
    StepRunner,
)
from scattershot_worker.monitors.layer_record import LayerRecord
from scattershot_worker.training import dropout
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.evaluation import Evaluation
from scattershot_worker.training.training import Training

#: The fewest rows of a program: kernels for a single row add up in another order.
_MIN_WIDTH = 2


class FusedEngine:
    """Lanes of one signature on one device. The numbers of a lane do not depend on the others."""

    def __init__(
        self,
        task: Task,
        data: Data,
        signature: Signature,
        programs: Programs | None = None,
        graph: Callable[[], DeviceGraph] | None = None,
    ) -> None:
        """Take the task, its data as tensors on their device, and what the lanes have in common.

        `programs` are those that another engine of this signature has traced; `graph` makes
        device graphs of steps (on a GPU CUDA graphs, unless it is given).
        """
        self.signature = signature
        self._task, self._data = task, data
        self._x, self._y = tensors_of(data.train)
        self.storage: LaneStorage | None = None
        self._model: LaneModel | None = None
        self._evaluator: Evaluator | None = None
        self._activations: LaneActivations | None = None
        self._lanes: list[Lane] = []
        self.programs: Programs = {} if programs is None else programs
        graph = graph or (CudaGraph if self._x.device.type == "cuda" else None)
        self._steps = StepRunner([size for _, size in signature.sites], self.programs, graph)
        #: Rows of the program in use, the seconds that idle ones have cost since it was chosen,
        #: and the seconds of one row's epoch.
        self._width = 0
        self._wasted_seconds = self._row_seconds = 0.0
        self._active: ActiveLanes | None = None
        self._counters = dropout.counters(0, 0, self._x.device)
        #: Whether to monitor the training, and the monitor of the last epoch.
        self.monitors = False
        self._monitor: LaneMonitor | None = None

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that are trained."""
        return [lane for lane in self._lanes if lane.row is not None]

    def lane(self, training: Training) -> Lane:
        """Return a trial as a lane that is not admitted yet."""
        return Lane(training)

    def admit(self, lane: Lane) -> None:
        """Give a lane a row with its trial's present state; between epochs only."""
        if self.storage is None or self._model is None:
            layout = Layout.of(lane.training)
            self.storage = LaneStorage(layout, lane.training, _MIN_WIDTH)
            self._model = LaneModel(lane.training.model, self._task, layout)
            self._evaluator = Evaluator(self._task, self._model)
            self._activations = LaneActivations(self._model)
        self._compact()
        self._lanes.append(lane)
        self.storage.reserve(max(len(self._lanes), _MIN_WIDTH))
        lane.row = self.storage.load(lane.training, len(self._lanes) - 1)
        lane.storage = self.storage

    def release(self, lane: Lane) -> None:
        """Let a lane go, at any time; its row is free."""
        lane.row = None

    def _compact(self) -> None:
        """Move the lanes to the first rows."""
        assert self.storage is not None
        self._lanes = self.lanes
        for index, lane in enumerate(self._lanes):
            if lane.row is not None and lane.row.index != index:
                self.storage.move(lane.row.index, index)
                lane.row.index = index

    def observations(
        self, lane: Lane, evaluation: Evaluation
    ) -> tuple[dict[str, float], LayerRecord | None]:
        """Return what the monitor adds for a lane's last epoch; see `LaneMonitor.end_epoch`."""
        if self._monitor is None or lane.row is None:
            return {}, None
        x, _ = tensors_of(self._data.val)
        return self._monitor.end_epoch(lane.training, lane.row.index, x, evaluation)

    # ---- an epoch

    @torch.no_grad()
    def train_epoch(self, check: Callable[[], None]) -> TrainedEpoch[Lane]:
        """Train every lane for the epoch that its training has begun.

        `check` is called before every batch; lanes may be released in it.
        """
        started = time.perf_counter()
        self._compact()
        assert self.storage is not None and self._model is not None
        self._choose_width(len(self._lanes))
        width, sites = self._width, self.signature.sites
        active = ActiveLanes.of(self.storage, [*self._lanes], width, sites, self._active)
        self._active = active
        device, count, size = self._x.device, len(self._x), self.signature.batch_size
        orders = self._orders(active.lanes).to(device)
        keys = [dropout.key(lane.training.seed, lane.training.epoch) for lane in active.lanes]
        keys_ = torch.tensor(keys + [0] * (width - len(keys)), device=device)
        totals = torch.zeros(width, device=device)
        steps = -(-count // size)
        monitor = self._monitor = self._monitor_of(active.lanes, steps)
        weights, grads = self.storage.weights[:width], active.buffers.grads
        active.updates.begin_epoch()
        for step, first in enumerate(range(0, count, size)):
            check()
            active.updates.begin_step(step, steps)
            index = orders[:, first : first + size]
            shape = index.shape
            flat = index.reshape(-1)
            x = self._x.index_select(0, flat).view(*shape, *self._x.shape[1:])
            y = self._y.index_select(0, flat).view(*shape, *self._y.shape[1:])
            if step == 0 and monitor is not None:
                monitor.begin(x)
            random = self._random(keys_, step, shape[1])
            losses, outputs = self._steps.run(
                self._model,
                active.buffers,
                (x, y, active.smoothing, random, active.thresholds, active.scales),
            )
            observer = monitor if monitor is not None and step >= monitor.first else None
            if observer is not None:
                observer.gradients(step, losses, outputs, y, weights, grads)
            active.updates.step()
            if observer is not None:
                observer.updated(step, weights)
            totals += losses * shape[1]
        totals /= count
        self._row_seconds = (time.perf_counter() - started) / width
        losses_by_lane = {
            lane: total
            for lane, total in zip(active.lanes, totals.tolist(), strict=False)
            if lane.row is not None
        }
        return TrainedEpoch(losses_by_lane, count)

    def _monitor_of(self, lanes: list[Lane], steps: int) -> LaneMonitor | None:
        if not self.monitors:
            return None
        assert self.storage is not None and self._activations is not None
        trainings, size = (lane.training for lane in lanes), self.signature.batch_size
        return LaneMonitor(self._task, self._activations, self.storage, trainings, steps, size)

    def _orders(self, lanes: list[Lane]) -> Tensor:
        """Return the order [W, N] in which each row goes through the data in this epoch."""
        orders = torch.zeros(self._width, len(self._x), dtype=torch.int64)
        for row, lane in enumerate(lanes):
            seed = derive(lane.training.seed, "order", lane.training.epoch)
            generator = torch.Generator().manual_seed(seed)
            torch.randperm(len(self._x), generator=generator, out=orders[row])
        return orders

    def _random(self, keys: Tensor, step: int, batch: int) -> Tensor:
        """Return the random bits of a step for all dropout modules, one after the other."""
        count = sum(-(-size * batch // 4) for _, size in self.signature.sites)
        if count > len(self._counters):
            self._counters = dropout.counters(0, count, keys.device)
        return dropout.bits(dropout.starts(keys, step), self._counters[:count])

    def _choose_width(self, lanes: int) -> None:
        """Choose the program's rows: a narrower one is traced once it would have paid off."""
        assert self.storage is not None
        exact = max(lanes, _MIN_WIDTH)
        size = self.signature.batch_size
        traced = [width for width, batch in self.programs if batch == size and width >= exact]
        width = min(traced, default=exact)
        if width != self._width:
            self._wasted_seconds = 0.0
        self._wasted_seconds += (width - exact) * self._row_seconds
        if self._wasted_seconds > self._steps.trace_seconds:
            width, self._wasted_seconds = exact, 0.0
        self._width = width
        self.storage.reserve(width)

    # ---- evaluation

    def evaluate(
        self, part: Part, check: Callable[[], None], *, averaged: bool = False
    ) -> Evaluations:
        """Return every lane's evaluation on a part of the data; see `evaluation`.

        `averaged` evaluates the averaged weights, of the lanes that average their weights.
        """
        lanes = [lane for lane in self.lanes if not averaged or lane.training.average is not None]
        if not lanes:
            return {}
        assert self.storage is not None and self._evaluator is not None
        return self._evaluator.evaluate(self.storage, lanes, part, check, averaged=averaged)
