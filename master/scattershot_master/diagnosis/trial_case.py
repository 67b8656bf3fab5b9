"""Owns what a rule sees of a trial, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from math import hypot, inf, isclose, isfinite, log, nan
from statistics import fmean
from typing import Any

from scattershot_master.diagnosis.gap import Gap


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found: its `evidence`, the `remedy`, and where the notes say so."""

    rule: str
    evidence: str
    remedy: str
    source: str


@dataclass(frozen=True)
class Rule:
    """`look` returns the evidence, or "" where there is nothing to say."""

    name: str
    look: Callable[[Case], str]
    remedy: str
    #: A section of the CS231n notes ("Neural Networks Part 3" unless it says otherwise).
    source: str

    def find(self, case: Case) -> Finding | None:
        """Return the finding in a case, if there is one."""
        evidence = self.look(case)
        return Finding(self.name, evidence, self.remedy, self.source) if evidence else None


@dataclass(frozen=True)
class Case:
    """One trial: its history, a line per epoch, and its layers, a line per epoch looked at.

    `metric` is that of the study, `sign` what makes larger better. Everything may be missing but
    the history: a train function reports what it likes.
    """

    history: Sequence[Mapping[str, float]]
    layers: Sequence[Mapping[str, Any]] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "val_accuracy"
    sign: int = 1

    def series(self, name: str) -> list[float]:
        """Return a metric by epoch, of the epochs that have it."""
        return [line[name] for line in self.history if name in line]

    @cached_property
    def train(self) -> list[float]:
        """The training loss by epoch; else the validation loss."""
        return self.series("train_loss") or self.series("val_loss")

    @cached_property
    def chance(self) -> float | None:
        """The loss of knowing nothing, where it was recorded."""
        return self._begun("chance_loss")

    @cached_property
    def first(self) -> float | None:
        """The loss of the very first step, where it was recorded."""
        return self._begun("initial_loss")

    def _begun(self, name: str) -> float | None:
        value = self.history[0].get(name) if self.history else None
        return value if value is not None and isfinite(value) else None

    @cached_property
    def start(self) -> float:
        """The loss before anything was learned: at chance, else the first step's, else epoch 1's.

        0 where no loss is known.
        """
        known = [self.chance, self.first, *self.train[:1]]
        return next((one for one in known if one is not None and isfinite(one)), 0.0)

    @cached_property
    def initial(self) -> float:
        """The loss that the training began with: the first step's, or `start` if more."""
        return self.start if self.first is None else max(self.first, self.start)

    @cached_property
    def scale(self) -> float:
        """What a rise of the loss is measured by: `start`, or the range of a loss below 0."""
        finite = [one for one in self.train if isfinite(one)]
        if self.start > 0 and min(finite, default=0.0) >= 0:
            return self.start
        return max(abs(self.start), max(finite, default=0.0) - min(finite, default=0.0))

    @cached_property
    def broken(self) -> bool:
        """Whether a loss came out as NaN or infinite, or ends well above the first."""
        losses = self.train
        if not losses:
            return False
        much = max(self.initial, self.scale, 1e-12)
        return not all(map(isfinite, losses)) or losses[-1] > self.initial + 0.3 * much

    @cached_property
    def left(self) -> float:
        """The part of the starting loss that the last epochs still have; NaN where that is none."""
        last = self.train[-2:]
        if self.start <= 0 or not last:
            return 0.0
        return fmean(last) / self.start if all(map(isfinite, last)) else nan

    @cached_property
    def last_losses(self) -> tuple[list[float], list[float]]:
        """The training and the validation losses of the last three epochs that have both."""
        lines = [one for one in self.history if "train_loss" in one and "val_loss" in one][-3:]
        return [one["train_loss"] for one in lines], [one["val_loss"] for one in lines]

    @cached_property
    def apart(self) -> bool:
        """Whether validation's loss is three times the training loss or more, and it matters.

        Much of the starting loss must lie between them where nothing tells of wrong answers.
        """
        pairs, least = [*zip(*self.last_losses, strict=True)], 0.1 if self.gap else 0.3
        return bool(pairs) and all(b > 3 * a > 0 and b - a > least * self.scale for a, b in pairs)

    @cached_property
    def kept_up(self) -> bool:
        """Whether dropout, augmentation or smoothing keep the training loss above validation's."""
        train, val = self.last_losses
        return bool(val) and fmean(val) < 0.8 * fmean(train)

    @cached_property
    def squared(self) -> bool:
        """Whether the loss is a squared error: that of the `val_rmse` beside it."""
        lines = (one for one in self.history if "val_rmse" in one and "val_loss" in one)
        line = next(lines, None)
        return line is not None and isclose(line["val_rmse"] ** 2, line["val_loss"], rel_tol=1e-3)

    @cached_property
    def gain(self) -> float:
        """How much the second half of the epochs lowered the training loss, in initial losses.

        The best of each half is compared; 0 with fewer than four epochs.
        """
        half = len(self.train) // 2
        if half < 2 or self.initial <= 0:
            return 0.0
        return (min(self.train[:half]) - min(self.train[half:])) / self.initial

    @cached_property
    def early(self) -> float:
        """How much the first half lowered it, in initial losses."""
        half = len(self.train) // 2
        if half < 1 or self.initial <= 0:
            return 0.0
        return (self.initial - min(self.train[:half])) / self.initial

    @cached_property
    def slope(self) -> float:
        """How much of the starting loss an epoch took off at last, by the means of two quarters."""
        quarter = len(self.train) // 4
        if quarter < 1 or self.start <= 0:
            return 0.0
        last, before = self.train[-quarter:], self.train[-2 * quarter : -quarter]
        return (fmean(before) - fmean(last)) / quarter / self.start

    @cached_property
    def moves(self) -> list[float]:
        """The epochs' changes of the training loss's logarithm, after the first quarter."""
        losses = self.train[len(self.train) // 4 :]
        return [log(b / a) for a, b in pairwise(losses) if 0 < a < inf and 0 < b < inf]

    @cached_property
    def still(self) -> bool:
        """Whether the training loss fell and then neither falls nor jumps: 5% an epoch or less."""
        moves = sum(map(abs, self.moves))
        return self.left < 0.9 and len(self.moves) > 1 and moves < 0.05 * len(self.moves)

    @cached_property
    def gap(self) -> Gap | None:
        """How validation compares with the training part at the end, where both are known."""
        return Gap.of(self.history, self.metric, self.sign)

    @cached_property
    def ratio(self) -> float | None:
        """The update ratio's median over the second half of the epochs, if it was recorded."""
        late = self.history[len(self.history) // 2 :]
        ratios = sorted(
            one["update_ratio"] for one in late if isfinite(one.get("update_ratio", nan))
        )
        return ratios[len(ratios) // 2] if ratios else None

    @cached_property
    def largest_ratio(self) -> float | None:
        """The largest update ratio of all epochs that have one."""
        return max(filter(isfinite, self.series("update_ratio")), default=None)

    @cached_property
    def first_weights(self) -> Mapping[str, Any] | None:
        """The first weights of two dimensions or more, as the last line of the layers has them."""
        lines = self.layers[-1].get("parameters", ()) if self.layers else ()
        return next((one for one in lines if len(one["shape"]) > 1), None)

    @cached_property
    def unreached(self) -> bool:
        """Whether gradients do not reach the first layer: its mean one is below 1e-6.

        Not so where the whole gradient is small: on a batch that the model knows already.
        """
        first = self.first_weights
        if first is None or first["grad_rms"] >= 1e-6:
            return False
        return hypot(*(one.get("grad", inf) for one in self.layers[-1]["parameters"])) > 1e-3

    @cached_property
    def constant(self) -> bool:
        """Whether the learning rate stayed where it was."""
        rates = self.series("lr")
        return not rates or min(rates) > 0.5 * max(rates)


def number(value: float) -> str:
    """Return a number for a sentence.

    >>> number(0.012345), number(3e-07)
    ('0.0123', '3e-07')
    """
    return f"{value:.3g}"


def percent(value: float) -> str:
    """Return a share for a sentence.

    >>> percent(0.314)
    '31%'
    """
    return f"{100 * value:.0f}%"
