"""Owns the `trial` object: what a train function gets, and what the trainer itself runs on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from scattershot_common.bus.queue import TrialSpec
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.errors import CheckpointError, ScattershotError
from scattershot_common.seeds import derive
from scattershot_common.store.checkpoint_names import list_checkpoints, trial_folder
from scattershot_common.store.files import STALE, clean_stale, newest_valid
from scattershot_common.store.layer_stats import LAYERS, LayerStats
from scattershot_worker.attempt.reporter import Attempt, Line, Reporter
from scattershot_worker.attempt.snapshot import Snapshot, Stateful, restore
from scattershot_worker.training.seeding import seed_everything

T = TypeVar("T")


class TrialHandle:
    """One attempt at a trial, from the training's side.

    A train function reads `params`, loops over `epochs(...)` and calls `report(...)` once in
    each; checkpoints, resuming, seeds and stopping are taken care of in between.
    """

    def __init__(
        self,
        spec: TrialSpec,
        info: StudyInfo,
        attempt: Attempt,
        reporter: Reporter,
        *,
        folder: Path,
        until: int,
        reported: int,
        device: torch.device,
        log: Any,
    ) -> None:
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
        #: One line per epoch so far: "epoch" and the metrics reported.
        self.history: list[dict[str, float]] = []
        #: The same as JSON, for the checkpoints' headers.
        self._lines: list[str] = []
        self._spec, self._info, self._attempt, self._reporter = spec, info, attempt, reporter
        self._until, self._reported = until, reported
        #: Whether to look at gradients, updates and activations; see [worker] monitors.
        self.monitors = info.monitors
        self._log = log
        self._parts: dict[str, Stateful] = {}
        self._layers = LayerStats()
        #: Epochs without a better value after which it is complete, if it is to stop early.
        self.patience: int | None = None
        #: Whether the last epoch was this stage's: a trial that is continued gets on first.
        self._in_stage = False
        self._epoch = 0
        self._begun = 0  # the epoch that epochs() has yielded last
        seed_everything(derive(self.seed, "init"))

    def epochs(self, **parts: Any) -> Iterator[int]:
        """Yield the epochs that are still to train, counted from 1.

        Name everything whose state must survive a restart: `model=`, `optimizer=`, a scheduler,
        a scaler, or any object with `state_dict` and `load_state_dict`. Each is restored from the
        trial's last checkpoint before the first epoch. Python's, numpy's and torch's random
        numbers are seeded anew for every epoch, so a resumed run goes on exactly as it would
        have. The loop ends after the trial's last epoch, and is left when it must stop.
        """
        self.open(parts)
        while (epoch := self.next_epoch()) is not None:
            seed_everything(derive(self.seed, "epoch", epoch))
            yield epoch
            if self._epoch != epoch:
                raise ScattershotError(
                    f"epoch {epoch} ended without trial.report(): call it once in every epoch"
                )

    def open(self, parts: Mapping[str, Any]) -> None:
        """Name what survives a restart, and restore it: what `epochs` begins with."""
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
        self._stop_early()  # here, so that an attempt that goes on decides as the one before would
        if self._epoch >= self._until:
            return None
        self.check()
        self._begun = self._epoch + 1
        return self._begun

    def batches(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield from `batches`, leaving at once when the trial must stop."""
        for batch in batches:
            self.check()
            yield batch

    def check(self) -> None:
        """Leave the training if the trial was killed, or the worker is to stop."""
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
            ScattershotError: the metric is missing, or something reported is not a number, or
                this is not the one report of an epoch.
        """
        if self._begun != self._epoch + 1:
            raise ScattershotError(
                "trial.report() must be called once in every epoch of trial.epochs(); "
                + (f"epoch {self._epoch} is reported already" if self._begun else "none has begun")
            )
        values = {name: _number(name, value) for name, value in {**(metrics or {}), **more}.items()}
        metric = self._info.metric
        if metric not in values:
            raise ScattershotError(
                f"trial.report() must give {metric!r}, the study's metric; it gave "
                f"{', '.join(values) or 'nothing'}: report it (metrics() returns it without its "
                "val_), or name one of these as [study] metric"
            )
        self._epoch += 1
        self._in_stage = True
        self._attempt.signals.progress += 1
        self.history.append({"epoch": self._epoch, **values})
        snapshot = None
        # A checkpoint whose metric is not finite would never be used: not for ranking, and
        # resuming from it would only bring the same NaN again.
        if self._parts and math.isfinite(values[metric]):
            state: dict[str, Any] = {name: p.state_dict() for name, p in self._parts.items()}
            if predictions is not None and targets is not None:
                state["predictions"] = torch.as_tensor(predictions).to(torch.float32)
                state["targets"] = torch.as_tensor(targets)
            snapshot = Snapshot(state)
        files = {}
        if layers is not None:
            self._layers.add(layers)
            files[LAYERS] = self._layers.data()
        self._lines.append(json.dumps(self.history[-1]))
        self._reporter.line(
            Line(
                self._attempt,
                self._epoch,
                values,
                snapshot,
                self._header(values),
                [*self._lines],
                files,
            )
        )
        if self._epoch < self._until:
            self.check()

    def _stop_early(self) -> None:
        """End as complete if the last `patience` epochs have brought nothing better."""
        if self.patience is None or self._epoch >= self._until or not self._in_stage:
            return
        metric, sign = self._info.metric, -1 if self._info.goal == "minimize" else 1
        values = [sign * line[metric] for line in self.history]
        finite = [value for value in values if math.isfinite(value)]
        best = values.index(max(finite)) + 1 if finite else 0
        if len(values) - best >= self.patience:
            self._until = self._epoch
            self._attempt.early = f"stopped early: no better {metric} for {self.patience} epochs"

    @property
    def done(self) -> int:
        """Epochs trained so far, by this attempt or earlier ones."""
        return self._epoch

    @property
    def left(self) -> int:
        """Epochs that this attempt has before it."""
        return max(0, self._until - self._epoch)

    def _header(self, values: Mapping[str, float]) -> dict[str, object]:
        metric = self._info.metric
        return {
            "study": self._spec.study,
            "trial": self.number,
            "stage": self.stage,
            "attempt": self._attempt.number,
            "epoch": self._epoch,
            "params": dict(self.params),
            "seed": self.seed,
            "metric": metric,
            "goal": self._info.goal,
            "value": values[metric],
        }

    def _resume(self) -> None:
        """Go on from the newest sound checkpoint at or before what was last reported."""
        checkpoints = self._attempt.checkpoints
        if self._attempt.number > 1:
            clean_stale(trial_folder(checkpoints, self.number), STALE)
        self._attempt.files = {path.name for path in list_checkpoints(checkpoints, self.number)}
        if not self._parts or not self._reported:
            return
        found = newest_valid(
            checkpoints,
            self.number,
            self._reported,
            lambda error: self._log.warning("trial %d: %s", self.number, error),
        )
        if found is None:
            self._log.warning(
                "trial %d: no sound checkpoint of its %d epochs is in %s; it starts again",
                self.number,
                self._reported,
                checkpoints,
            )
            return
        if found.header["seed"] != self.seed or found.header["params"] != dict(self.params):
            raise CheckpointError(
                f"{found.path} belongs to another trial (its hyperparameters differ); "
                "use another output folder, or --fresh"
            )
        restore(self._parts, cast(Mapping[str, Any], found.header["state"]), found.data)
        self._epoch = found.header["epoch"]
        self._in_stage = found.header.get("stage") == self.stage
        if self.monitors:
            self._layers = LayerStats.read(checkpoints, self.number, until=self._epoch)
        self.history[:] = found.header["history"]
        self._lines = [json.dumps(line) for line in self.history]
        metric = self._info.metric
        self._attempt.accepted = {int(line["epoch"]): line[metric] for line in self.history}


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
