"""Learning rate schedules: each a function of progress alone.

Progress runs from 0 to 1 over the trial's budget, step by step; the result is the factor of the
trial's `lr`. Nothing is remembered from step to step, so a resumed trial continues exactly, and a
lane trains as a trial alone does. Notes: "Annealing the learning rate" in neural-networks-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol


class ScheduleSettings(Protocol):
    """The hyperparameters that schedules read; see docs/hyperparameters.md."""

    @property
    def schedule(self) -> str:
        """The name of one of `SCHEDULES`."""

    @property
    def warmup(self) -> float:
        """The part of the budget over which the rate rises linearly."""

    @property
    def drop_every(self) -> float:
        """The part of the budget between two drops of `step`."""

    @property
    def drop_factor(self) -> float:
        """What `step` multiplies the rate with at a drop."""

    @property
    def final_factor(self) -> float | None:
        """The factor at the end of the budget; None stands for the schedule's own."""

    @property
    def patience(self) -> int:
        """The epochs without a lower validation loss that make a plateau."""

    @property
    def cycles(self) -> int:
        """The number of cosines of `snapshots`."""

    @property
    def final_momentum(self) -> float | None:
        """The momentum at the end of the budget; None leaves it as it is."""


Schedule = Callable[[float, ScheduleSettings], float]

#: One cycle: the factors at its start and end, and the progress at its top (Smith 2018).
_CYCLE_START, _CYCLE_END, _CYCLE_TOP = 1 / 25, 1e-4 / 25, 0.3


def constant(progress: float, settings: ScheduleSettings) -> float:
    """Return 1."""
    return 1.0


def step(progress: float, settings: ScheduleSettings) -> float:
    """Multiply by `drop_factor` after every `drop_every` of the budget."""
    # rounding must not put off the drop after a third of the steps
    return float(settings.drop_factor ** math.floor(progress / settings.drop_every + 1e-9))


def exponential(progress: float, settings: ScheduleSettings) -> float:
    """Decay exponentially to `final_factor` (0.01) at the end."""
    return float((settings.final_factor or 0.01) ** progress)


def inverse(progress: float, settings: ScheduleSettings) -> float:
    """Decay as 1 / (1 + k t), to `final_factor` (0.01) at the end."""
    return 1 / (1 + (1 / (settings.final_factor or 0.01) - 1) * progress)


def linear(progress: float, settings: ScheduleSettings) -> float:
    """Decay linearly to `final_factor` (0)."""
    return 1 - (1 - (settings.final_factor or 0.0)) * progress


def cosine(progress: float, settings: ScheduleSettings) -> float:
    """Decay by half a cosine to `final_factor` (0) (Loshchilov and Hutter 2017)."""
    return _fall(1.0, settings.final_factor or 0.0, progress)


def snapshots(progress: float, settings: ScheduleSettings) -> float:
    """Decay by `cycles` cosines in succession (snapshot ensembles, Huang et al. 2017)."""
    return cosine(math.fmod(progress * settings.cycles + 1e-12, 1.0), settings)


def one_cycle(progress: float, settings: ScheduleSettings) -> float:
    """Rise from 1/25 to the full rate over 30 % of the budget, then fall to nearly zero."""
    if progress <= _CYCLE_TOP:
        return _fall(_CYCLE_START, 1.0, progress / _CYCLE_TOP)
    return _fall(1.0, _CYCLE_END, (progress - _CYCLE_TOP) / (1 - _CYCLE_TOP))


def _fall(first: float, last: float, part: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * part)) / 2


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "step": step,
    "exponential": exponential,
    "inverse": inverse,
    "linear": linear,
    "cosine": cosine,
    "snapshots": snapshots,
    "one_cycle": one_cycle,
    "plateau": constant,  # depends on the epochs so far: see `plateau`
}


def factor(progress: float, settings: ScheduleSettings) -> float:
    """Return the factor of `lr`, with the linear warmup over the first `warmup` of the budget."""
    if progress < settings.warmup:
        return progress / settings.warmup
    after = (progress - settings.warmup) / (1 - settings.warmup)
    return SCHEDULES[settings.schedule](after, settings)


def plateau(losses: Sequence[float], settings: ScheduleSettings) -> float:
    """Return the factor after epochs of these validation losses: halved at every plateau.

    A plateau is `patience` epochs in turn without a loss below the lowest so far.

    >>> from types import SimpleNamespace
    >>> plateau([3.0, 2.0, 2.5, 2.1, 1.0], SimpleNamespace(patience=2))
    0.5
    """
    lowest, waited, halvings = math.inf, 0, 0
    for loss in losses:
        if loss < lowest:
            lowest, waited = loss, 0
        else:
            waited += 1
        if waited >= settings.patience:
            halvings, waited = halvings + 1, 0
    return 0.5**halvings


def momentum(progress: float, first: float, settings: ScheduleSettings) -> float:
    """Return the momentum, which moves linearly to `final_momentum` (notes: 0.5 to 0.99)."""
    last = first if settings.final_momentum is None else settings.final_momentum
    return first + (last - first) * progress
