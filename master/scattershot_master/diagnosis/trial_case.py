"""What a diagnosis rule sees of a trial (`TrialCase`), what it is (`Rule`), what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import hypot, inf, isclose, isfinite, log, nan
from statistics import fmean
from typing import Any

from scattershot_common.objective import Objective

_ACCURACY = Objective("val_accuracy")
#: The last epochs that are compared: a single one says little.
_GAP_EPOCHS = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: its `evidence`, the `remedy`, and where the notes say so."""

    rule: str
    evidence: str
    remedy: str
    source: str


@dataclass(frozen=True)
class Rule:
    """A rule on one trial; `evidence` returns what it found as a sentence, "" for nothing."""

    name: str
    evidence: Callable[[TrialCase], str]
    remedy: str
    #: A section of the CS231n notes ("Neural Networks Part 3" unless it says otherwise).
    source: str

    def find(self, case: TrialCase) -> Finding | None:
        """Return the finding in a case, if there is one."""
        evidence = self.evidence(case)
        return Finding(self.name, evidence, self.remedy, self.source) if evidence else None


@dataclass(frozen=True)
class Gap:
    """The generalization gap at the end of a trial: how much worse its metric is on validation.

    `train` and `val` are shares of the epochs compared, from 0 to 1; larger is better.
    """

    name: str
    train: Sequence[float]
    val: Sequence[float]

    @classmethod
    def of(cls, history: Sequence[Mapping[str, float]], objective: Objective) -> Gap | None:
        """Return that of the study's metric, else of the accuracy; None where neither is a share.

        A minimized metric is a share only if it is named an error; values above 1 are percentages.
        """
        for candidate in (objective, _ACCURACY):
            name = candidate.metric.removeprefix("val_")
            pair = f"train_{name}", candidate.metric
            epochs = [line for line in history[-_GAP_EPOCHS:] if all(key in line for key in pair)]
            train, val = ([line[key] for line in epochs] for key in pair)
            largest = max(train + val, default=-1.0)
            maximized = candidate.sign > 0
            share = maximized or name.endswith(("error", "error_rate"))
            if not share or not 0 <= min(train + val, default=-1.0) <= largest <= 100:
                continue
            unit, base = (100 if largest > 1 else 1), (0 if maximized else 1)
            shares = (
                [base + candidate.score(value) / unit for value in part] for part in (train, val)
            )
            return cls(name, *shares)
        return None

    @property
    def smallest(self) -> float:
        """How much worse validation is, in the epoch where the difference is smallest."""
        return min(a - b for a, b in zip(self.train, self.val, strict=True))

    @property
    def wide(self) -> bool:
        """Whether `smallest` is 8 points or more, and a quarter more mistakes.

        For a model that makes many mistakes, their share says more than points do.
        """
        return self.smallest > max(0.08, 0.25 * (1 - fmean(self.train)))


@dataclass(frozen=True)
class TrialCase:
    """One trial: its history, one record per epoch, and its layers, one per epoch recorded.

    `objective` is that of the study. Only the history is needed, and what it holds may differ: a
    train function reports what it likes.
    """

    history: Sequence[Mapping[str, float]]
    layers: Sequence[Mapping[str, Any]] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    objective: Objective = _ACCURACY

    def series(self, name: str) -> list[float]:
        """Return a metric by epoch, of the epochs that have it."""
        return [line[name] for line in self.history if name in line]

    @cached_property
    def train_losses(self) -> list[float]:
        """The training loss by epoch; else the validation loss."""
        return self.series("train_loss") or self.series("val_loss")

    @cached_property
    def chance_loss(self) -> float | None:
        """The loss of a model that knows nothing, where it was recorded."""
        return self._first("chance_loss")

    @cached_property
    def initial_loss(self) -> float | None:
        """The loss of the very first step, where it was recorded."""
        return self._first("initial_loss")

    def _first(self, name: str) -> float | None:
        value = self.history[0].get(name) if self.history else None
        return value if value is not None and isfinite(value) else None

    @cached_property
    def baseline_loss(self) -> float:
        """The loss before anything was learned: at chance, else the first step's, else epoch 1's.

        0 where no loss is known.
        """
        known = [self.chance_loss, self.initial_loss, *self.train_losses[:1]]
        return next((loss for loss in known if loss is not None and isfinite(loss)), 0.0)

    @cached_property
    def start_loss(self) -> float:
        """The loss that the training began with: the first step's, or `baseline_loss` if larger."""
        if self.initial_loss is None:
            return self.baseline_loss
        return max(self.initial_loss, self.baseline_loss)

    @cached_property
    def loss_scale(self) -> float:
        """The unit for a rise of the loss: `baseline_loss`, or the range of a loss below 0."""
        finite = [loss for loss in self.train_losses if isfinite(loss)]
        if self.baseline_loss > 0 and min(finite, default=0.0) >= 0:
            return self.baseline_loss
        return max(abs(self.baseline_loss), max(finite, default=0.0) - min(finite, default=0.0))

    @cached_property
    def ends_diverged(self) -> bool:
        """Whether a loss is NaN or infinite, or the last one is well above the first."""
        losses = self.train_losses
        if not losses:
            return False
        unit = max(self.start_loss, self.loss_scale, 1e-12)
        return not all(map(isfinite, losses)) or losses[-1] > self.start_loss + 0.3 * unit

    @cached_property
    def loss_left(self) -> float:
        """The last epochs' loss as a part of `baseline_loss`; NaN where a loss is not finite."""
        last = self.train_losses[-2:]
        if self.baseline_loss <= 0 or not last:
            return 0.0
        return fmean(last) / self.baseline_loss if all(map(isfinite, last)) else nan

    @cached_property
    def last_losses(self) -> tuple[list[float], list[float]]:
        """The training and the validation losses of the last three epochs that have both."""
        lines = [line for line in self.history if "train_loss" in line and "val_loss" in line][-3:]
        return [line["train_loss"] for line in lines], [line["val_loss"] for line in lines]

    @cached_property
    def val_loss_far_above(self) -> bool:
        """Whether the validation loss is three times the training loss or more, and it matters.

        Where no metric counts mistakes, they must differ by more of the starting loss.
        """
        pairs, least = [*zip(*self.last_losses, strict=True)], 0.1 if self.gap else 0.3
        return bool(pairs) and all(
            val > 3 * train > 0 and val - train > least * self.loss_scale for train, val in pairs
        )

    @cached_property
    def train_loss_above_val(self) -> bool:
        """Whether dropout, augmentation or smoothing keep the training loss above validation's."""
        train, val = self.last_losses
        return bool(val) and fmean(val) < 0.8 * fmean(train)

    @cached_property
    def squared_error(self) -> bool:
        """Whether the loss is a squared error: the square of the `val_rmse` beside it."""
        lines = (line for line in self.history if "val_rmse" in line and "val_loss" in line)
        line = next(lines, None)
        return line is not None and isclose(line["val_rmse"] ** 2, line["val_loss"], rel_tol=1e-3)

    @cached_property
    def late_gain(self) -> float:
        """How much the second half of the epochs lowered the training loss, in start losses.

        The best of each half is compared; 0 with fewer than four epochs.
        """
        half = len(self.train_losses) // 2
        if half < 2 or self.start_loss <= 0:
            return 0.0
        return (min(self.train_losses[:half]) - min(self.train_losses[half:])) / self.start_loss

    @cached_property
    def early_gain(self) -> float:
        """How much the first half of the epochs lowered it, in start losses."""
        half = len(self.train_losses) // 2
        if half < 1 or self.start_loss <= 0:
            return 0.0
        return (self.start_loss - min(self.train_losses[:half])) / self.start_loss

    @cached_property
    def final_slope(self) -> float:
        """The fall per epoch, in baseline losses, between the means of the last two quarters."""
        quarter = len(self.train_losses) // 4
        if quarter < 1 or self.baseline_loss <= 0:
            return 0.0
        last, before = self.train_losses[-quarter:], self.train_losses[-2 * quarter : -quarter]
        return (fmean(before) - fmean(last)) / quarter / self.baseline_loss

    @cached_property
    def log_changes(self) -> list[float]:
        """The change of the training loss's logarithm by epoch, after the first quarter."""
        losses = self.train_losses[len(self.train_losses) // 4 :]
        return [log(b / a) for a, b in pairwise(losses) if 0 < a < inf and 0 < b < inf]

    @cached_property
    def loss_settled(self) -> bool:
        """Whether the training loss fell and then neither falls nor jumps: 5% an epoch or less."""
        moved = sum(map(abs, self.log_changes))
        changes = len(self.log_changes)
        return self.loss_left < 0.9 and changes > 1 and moved < 0.05 * changes

    @cached_property
    def gap(self) -> Gap | None:
        """How validation compares with the training part at the end, where both are known."""
        return Gap.of(self.history, self.objective)

    @cached_property
    def update_ratio(self) -> float | None:
        """The update ratio's median over the second half of the epochs, if it was recorded."""
        late = self.history[len(self.history) // 2 :]
        ratios = sorted(
            line["update_ratio"] for line in late if isfinite(line.get("update_ratio", nan))
        )
        return ratios[len(ratios) // 2] if ratios else None

    @cached_property
    def largest_update_ratio(self) -> float | None:
        """The largest update ratio of all epochs that have one."""
        return max(filter(isfinite, self.series("update_ratio")), default=None)

    @cached_property
    def first_weights(self) -> Mapping[str, Any] | None:
        """The first weights of two dimensions or more, in the last record of the layers."""
        parameters = self.layers[-1].get("parameters", ()) if self.layers else ()
        return next((parameter for parameter in parameters if len(parameter["shape"]) > 1), None)

    @cached_property
    def gradients_vanish(self) -> bool:
        """Whether gradients do not reach the first layer: its mean gradient is below 1e-6.

        False where the whole gradient is small, as on a batch that the model has learned.
        """
        first = self.first_weights
        if first is None or first["grad_rms"] >= 1e-6:
            return False
        norms = (parameter.get("grad", inf) for parameter in self.layers[-1]["parameters"])
        return hypot(*norms) > 1e-3

    @cached_property
    def constant_lr(self) -> bool:
        """Whether the learning rate stayed within a factor of two."""
        rates = self.series("lr")
        return not rates or min(rates) > 0.5 * max(rates)
