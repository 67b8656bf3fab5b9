"""The engine of a trial that trains alone, by ordinary torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from scattershot_common.seeds import derive
from scattershot_common.task.task import Data, Part, Task
from scattershot_worker.engine.engine import TrainedEpoch
from scattershot_worker.monitors.layer_record import LayerRecord
from scattershot_worker.monitors.monitor import Monitor
from scattershot_worker.training.data import is_tensors
from scattershot_worker.training.evaluation import Evaluation, evaluate
from scattershot_worker.training.own_generators import OwnGenerators
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training, train_epoch


@dataclass(frozen=True, eq=False)
class SoloLane:
    """A trial that trains alone; its state is that of its `Training`."""

    training: Training

    @property
    def parts(self) -> Mapping[str, Any]:
        """What its checkpoints hold, by name."""
        return self.training.parts


class SoloEngine:
    """Trains one lane at a time, on tensors or loaders.

    Data order and dropout derive from the trial's seed and the epoch alone, as does whatever else
    draws from the generators of Python, numpy and torch: they are seeded for every epoch.
    """

    signature: None = None

    def __init__(self, task: Task, data: Data) -> None:
        """Take the task, and its data with the tensors on their device."""
        self.monitors = False
        self._task, self._data = task, data
        self._lane: SoloLane | None = None
        self._monitor: Monitor | None = None
        self._generators = OwnGenerators()

    def lane(self, training: Training) -> SoloLane:
        """Return a trial as a lane that is not admitted yet."""
        return SoloLane(training)

    def admit(self, lane: SoloLane) -> None:
        """Take a lane, before its first epoch here."""
        self._lane = lane
        self._monitor = Monitor(lane.training) if self.monitors else None
        self._generators = OwnGenerators.of_task(self._task, lane.training.model)

    def release(self, lane: SoloLane) -> None:
        """Let the lane go."""
        self._lane = self._monitor = None

    def train_epoch(self, check: Callable[[], None]) -> TrainedEpoch[SoloLane]:
        """Train the lane for the epoch that its training has begun; see `training.train_epoch`."""
        lane = self._lane
        if lane is None:
            return TrainedEpoch({}, 0)
        training = lane.training
        seed = derive(training.seed, "epoch", training.epoch)
        seed_everything(seed)
        self._generators.seed(seed)
        if not is_tensors(self._data.train):
            OwnGenerators(self._data.train).seed(seed)
        loss, examples = train_epoch(training, self._data.train, check, self._monitor)
        return TrainedEpoch({lane: loss}, examples)

    def evaluate(
        self, part: Part, check: Callable[[], None], *, averaged: bool = False
    ) -> dict[SoloLane, Evaluation]:
        """Return how the lane does on a part of the data, `averaged` by its averaged weights."""
        lane = self._lane
        if lane is None or (averaged and lane.training.average is None):
            return {}
        training = lane.training
        around: AbstractContextManager[None] = nullcontext()
        if averaged and training.average is not None:
            around = training.average.in_place()
        elif self._monitor is not None:
            around = self._monitor.evaluation()
        with around:
            return {lane: evaluate(training.hooks, training.model, part, training.device, check)}

    def observations(
        self, lane: SoloLane, evaluation: Evaluation
    ) -> tuple[dict[str, float], LayerRecord | None]:
        """Return what the monitors observed of the last epoch; see `Monitor.end_epoch`."""
        if self._monitor is None:
            return {}, None
        return self._monitor.end_epoch(evaluation.outputs, evaluation.targets)
