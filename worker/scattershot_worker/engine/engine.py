"""The interface of engines, which train the lanes of a pack epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from scattershot_common.task.task import Part
from scattershot_worker.monitors.layer_record import LayerRecord
from scattershot_worker.training.evaluation import Evaluation
from scattershot_worker.training.training import Training

#: A dropout module: its name, and the elements of its input per example.
Site = tuple[str, int]


@dataclass(frozen=True)
class Signature:
    """What all lanes of a program share. `key` names it.

    `sites` are the calls of dropout modules, in the order of the forward pass.
    """

    key: str
    sites: tuple[Site, ...]
    batch_size: int
    #: Elements of all tensors that a forward pass of one example makes: a measure of its memory.
    elements: int


class Lane(Protocol):
    """A trial's place in a pack."""

    @property
    def training(self) -> Training:
        """What the trial trains with."""

    @property
    def parts(self) -> Mapping[str, Any]:
        """What its checkpoints hold, by name, each with `state_dict` and `load_state_dict`."""


LaneT = TypeVar("LaneT", bound=Lane)


@dataclass(frozen=True)
class TrainedEpoch(Generic[LaneT]):
    """The mean training loss of every lane that is still there, and the examples each has seen."""

    losses: Mapping[LaneT, float | Tensor]
    examples: int


class Engine(Protocol[LaneT]):
    """Trains and evaluates the lanes that it has admitted.

    `check` is called before every batch. It may release lanes, and raise to leave the epoch.
    """

    #: Whether to observe gradients, updates and activations; set before lanes are admitted.
    monitors: bool

    @property
    def signature(self) -> Signature | None:
        """What its lanes share; None where there is only one."""

    def lane(self, training: Training) -> LaneT:
        """Return a trial as a lane that is not admitted yet: its state may still be loaded."""

    def admit(self, lane: LaneT) -> None:
        """Take a lane, as its trial is by now; between epochs only."""

    def release(self, lane: LaneT) -> None:
        """Let a lane go, at any time."""

    def train_epoch(self, check: Callable[[], None]) -> TrainedEpoch[LaneT]:
        """Train every lane for the epoch that its training has begun."""

    def evaluate(
        self, part: Part, check: Callable[[], None], *, averaged: bool = False
    ) -> Mapping[LaneT, Evaluation]:
        """Return how every lane does on a part of the data.

        With `averaged` it is the lanes that average their weights, with the averaged weights.
        """

    def observations(
        self, lane: LaneT, evaluation: Evaluation
    ) -> tuple[dict[str, float], LayerRecord | None]:
        """Return what the monitors observed of a lane's last epoch: metrics, record of its layers.

        `evaluation` is that of the validation part. There is no record unless the epoch was
        observed closely.
        """
