"""The `trial` object: what a train function gets, and what packs resume from and report to."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from scattershot_common.errors import CheckpointError, ScattershotError
from scattershot_common.local_files import STALE
from scattershot_common.problems import nearest
from scattershot_common.seeds import derive
from scattershot_common.store.checkpoint_names import trial_key
from scattershot_common.store.layer_stats import LAYERS, LayerStats
from scattershot_common.task.metric_names import name_problem
from scattershot_worker.attempt.attempt import Attempt
from scattershot_worker.attempt.reporter import QueuedEpoch, Reporter
from scattershot_worker.attempt.snapshot import Snapshot, Stateful, restore
from scattershot_worker.training.own_generators import OwnGenerators
from scattershot_worker.training.seeding import seed_everything

log = logging.getLogger("scattershot.worker")

T = TypeVar("T")


@dataclass(frozen=True)
class EpochReport:
    """What is reported of an epoch; see `TrialHandle.report`."""

    metrics: Mapping[str, Any]
    layers: Mapping[str, Any] | None = None
    predictions: Any = None
    targets: Any = None


class TrialHandle:
    """One attempt at a trial, from the training's side.

    A train function reads `params`, loops over `epochs(...)` and calls `report(...)` once in
    each; checkpoints, resuming, seeds and stopping are taken care of in between.
    """

    def __init__(
        self, attempt: Attempt, reporter: Reporter, *, folder: Path, device: torch.device
    ) -> None:
        spec = attempt.spec
        self.number = spec.trial
        self.stage = spec.stage
        #: The hyperparameters, by name.
        self.params: Mapping[str, Any] = spec.params
        #: The trial's own seed; it is already set when the train function starts.
        self.seed = spec.seed
        #: Epochs the trial is to have in this stage.
        self.budget = spec.epochs
        #: Where to train.
        self.device = device
        #: The study's output folder on this machine.
        self.folder = folder
        #: One record per epoch so far: "epoch" and the metrics reported.
        self.history: list[dict[str, float]] = []
        #: The same as JSON, for the checkpoints' headers.
        self._records: list[str] = []
        self._attempt, self._reporter = attempt, reporter
        self._objective = attempt.objective
        #: Epochs after which this attempt ends.
        self._until = attempt.claim.until
        self._parts: dict[str, Stateful] = {}
        self._layers = LayerStats()
        #: Epochs without a better value after which it is complete, if it is to stop early.
        self.patience: int | None = None
        #: Whether the last epoch was one of this stage: a trial that a stage continues trains
        #: an epoch before it may stop early.
        self._in_stage = False
        #: The epoch that is reported last, and the one that is begun last.
        self._epoch = self._begun = 0
        #: Calls of `batches` in this epoch.
        self._loops = 0

    def epochs(self, **parts: Any) -> Iterator[int]:
        """Yield the epochs that are still to train, counted from 1.

        Name everything whose state must survive a restart: `model=`, `optimizer=`, a scheduler,
        a scaler, or any object with `state_dict` and `load_state_dict`. Each is restored from the
        trial's last checkpoint before the first epoch. Python's, numpy's and torch's random
        numbers are seeded anew for every epoch, so a resumed run goes on exactly as it would
        have. The loop ends after the trial's last epoch, and is left when it must stop.
        """
        self.open(parts)
        generators = OwnGenerators.of_task()
        while (epoch := self.next_epoch()) is not None:
            seed = derive(self.seed, "epoch", epoch)
            seed_everything(seed)
            generators.seed(seed)
            yield epoch
            if self._epoch != epoch:
                raise ScattershotError(
                    f"epoch {epoch} ended without trial.report(): call it once in every epoch"
                )

    def open(self, parts: Mapping[str, Any]) -> None:
        """Name what survives a restart, and restore it."""
        for name, part in parts.items():
            if not isinstance(part, Stateful):
                raise ScattershotError(
                    f"trial.epochs({name}=…): a {type(part).__name__} has no state_dict() and "
                    "load_state_dict()"
                )
        self._parts = dict(parts)
        self._resume()

    def next_epoch(self) -> int | None:
        """Return the epoch to train now, or None after the last; leave if the trial must stop."""
        self._stop_early()  # here, so that a resumed attempt decides as the one before would have
        if self._epoch >= self._until:
            return None
        self.check()
        self._begun, self._loops = self._epoch + 1, 0
        return self._begun

    def batches(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield from `batches`, leaving at once when the trial must stop.

        Generators of its own, such as `DataLoader(generator=…)`, are seeded for the epoch.
        """
        self._loops += 1
        OwnGenerators(batches).seed(derive(self.seed, "loop", self._begun, self._loops))
        for batch in batches:
            self.check()
            yield batch

    def check(self) -> None:
        """Leave the training if the trial was killed, or the worker is to stop.

        Raises:
            TrialStopped: it is to stop.
            StoreUnreachable: an object store did not take its last checkpoints.
        """
        self._attempt.signals.check()

    def report(
        self,
        metrics: Mapping[str, float] | None = None,
        /,
        *,
        predictions: Any = None,
        targets: Any = None,
        layers: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Report this epoch's metrics, and write its checkpoint in the background.

        The study's metric must be among them. `predictions` are those of the validation part,
        [N, C] probabilities or [N, …] values, `targets` what they should be, [N] classes or
        [N, …] values: with both the trial can join an ensemble. `layers` is what was seen of the
        model's layers in this epoch, for `diagnose`; see docs/diagnosis.md.

        Raises:
            ScattershotError: the metric is missing, something reported is not a number or has the
                name of a column of scattershot's own ("epoch", "trial", …), or this is not the
                one report of an epoch.
        """
        if self._begun != self._epoch + 1:
            raise ScattershotError(
                "trial.report() must be called once in every epoch of trial.epochs(); "
                + (f"epoch {self._epoch} is reported already" if self._begun else "none has begun")
            )
        self.record(EpochReport({**(metrics or {}), **more}, layers, predictions, targets))

    def record(self, report: EpochReport) -> None:
        """Report the epoch that is begun; see `report`."""
        values = {_name(name): _number(name, value) for name, value in report.metrics.items()}
        metric = self._objective.metric
        if metric not in values:
            raise ScattershotError(
                f"trial.report() must give {metric!r}, the study's metric; it gave "
                f"{', '.join(values) or 'nothing'}: report it (metrics() returns it without its "
                f"val_), or name one of these as [study] metric{nearest(metric, values)}"
            )
        self._epoch += 1
        self._in_stage = True
        self._attempt.signals.progress += 1
        self.history.append({"epoch": self._epoch, **values})
        self._records.append(json.dumps(self.history[-1]))
        files = {}
        if report.layers is not None:
            self._layers.add(report.layers)
            files[LAYERS] = self._layers.data()
        self._reporter.add(
            QueuedEpoch(
                self._attempt,
                self._epoch,
                values,
                self._snapshot(report, values[metric]),
                self._header(values),
                [*self._records],
                files,
            )
        )
        if self._epoch < self._until:
            self.check()

    def _snapshot(self, report: EpochReport, value: float) -> Snapshot | None:
        """Return what the epoch's checkpoint holds, or None where there is to be none.

        One whose metric is not finite would never be used: not for ranking, and to resume from it
        would only bring the same NaN again.
        """
        if not self._parts or not math.isfinite(value):
            return None
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts.items()}
        if report.predictions is not None and report.targets is not None:
            state["predictions"] = torch.as_tensor(report.predictions).to(torch.float32)
            state["targets"] = torch.as_tensor(report.targets)
        return Snapshot(state)

    def _stop_early(self) -> None:
        """End as complete if the last `patience` epochs have brought nothing better."""
        if self.patience is None or self._epoch >= self._until or not self._in_stage:
            return
        values = [self._objective.of(record) for record in self.history]
        best = self._objective.best(values)
        best_epoch = values.index(best) + 1 if math.isfinite(best) else 0
        if len(values) - best_epoch >= self.patience:
            self._until = self._epoch
            self._attempt.early = (
                f"stopped early: no better {self._objective.metric} for {self.patience} epochs"
            )

    @property
    def done(self) -> int:
        """Epochs trained so far, by this attempt or earlier ones."""
        return self._epoch

    @property
    def left(self) -> int:
        """Epochs that this attempt has before it."""
        return max(0, self._until - self._epoch)

    def _header(self, values: Mapping[str, float]) -> dict[str, object]:
        """Return the header of the epoch's checkpoint, without its history and state."""
        return {
            "study": self._attempt.spec.study,
            "trial": self.number,
            "stage": self.stage,
            "attempt": self._attempt.number,
            "epoch": self._epoch,
            "params": dict(self.params),
            "seed": self.seed,
            "metric": self._objective.metric,
            "goal": self._objective.goal,
            "value": self._objective.of(values),
        }

    def _resume(self) -> None:
        """Go on from the newest sound checkpoint at or before what was last reported."""
        attempt, checkpoints = self._attempt, self._attempt.checkpoints
        reported = attempt.claim.epoch
        if attempt.number > 1:
            checkpoints.clean_stale(trial_key(self.number), STALE)
        attempt.files = {*checkpoints.checkpoints(self.number)}
        if not self._parts or not reported:
            return
        checkpoint = checkpoints.newest_valid(
            self.number,
            reported,
            lambda error: log.warning("trial %d: %s", self.number, error),
        )
        if checkpoint is None:
            log.warning(
                "trial %d: no sound checkpoint of its %d epochs is in %s; it starts again",
                self.number,
                reported,
                checkpoints.address,
            )
            return
        header = checkpoint.header
        if header["seed"] != self.seed or header["params"] != dict(self.params):
            path = checkpoints.path_of(trial_key(self.number, checkpoint.name))
            raise CheckpointError(
                f"{path} belongs to another trial (its hyperparameters differ); "
                "use another output folder, or --fresh"
            )
        restore(self._parts, cast(Mapping[str, Any], header["state"]), checkpoint.data)
        self._epoch = header["epoch"]
        self._in_stage = header.get("stage") == self.stage
        if attempt.info.monitors:
            self._layers = LayerStats.read(checkpoints, self.number, until=self._epoch)
        self.history[:] = header["history"]
        self._records = [json.dumps(record) for record in self.history]
        metric = self._objective.metric
        attempt.accepted = {int(record["epoch"]): record[metric] for record in self.history}


def _name(name: str) -> str:
    """Return a metric's name; raises ScattershotError where nothing may be reported under it."""
    if wrong := name_problem(name):
        raise ScattershotError(f"a metric cannot be called so: {wrong}; report it as another name")
    return name


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value.item())
    try:
        return float(value)
    except (TypeError, ValueError):
        several = f" of {value.numel()}: take its mean" if isinstance(value, Tensor) else ""
        raise ScattershotError(
            f"trial.report({name}=…) wants a number; it got a {type(value).__name__}{several}"
        ) from None
