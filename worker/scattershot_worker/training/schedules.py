"""Owns how the learning rate goes: each schedule a function of progress alone, written once.

Progress runs from 0 to 1 over the trial's budget, step by step; the answer is what the trial's
`lr` is multiplied with. Nothing is remembered from step to step, so a resumed trial goes on as it
was, and a lane as a trial alone. Notes: "Annealing the learning rate" in neural-networks-3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scattershot_worker.training.hyperparameters import Hyperparameters

Schedule = Callable[[float, "Hyperparameters"], float]

#: One cycle: where it begins and ends as parts of the top, and when it is there (Smith 2018).
_CYCLE_START, _CYCLE_END, _CYCLE_TOP = 1 / 25, 1e-4 / 25, 0.3


def constant(progress: float, how: Hyperparameters) -> float:
    """Return 1."""
    return 1.0


def step(progress: float, how: Hyperparameters) -> float:
    """Drop by `drop_factor` whenever a further `drop_every` of the budget is over."""
    # the least bit more, so that a third of the budget is over after a third of its steps
    return float(how.drop_factor ** math.floor(progress / how.drop_every + 1e-9))


def exponential(progress: float, how: Hyperparameters) -> float:
    """Decay evenly in the logarithm, to `final_factor` (0.01) at the end."""
    return float((how.final_factor or 0.01) ** progress)


def inverse(progress: float, how: Hyperparameters) -> float:
    """Decay as 1 / (1 + k t), to `final_factor` (0.01) at the end."""
    return 1 / (1 + (1 / (how.final_factor or 0.01) - 1) * progress)


def linear(progress: float, how: Hyperparameters) -> float:
    """Decay evenly to `final_factor` (0)."""
    return 1 - (1 - (how.final_factor or 0.0)) * progress


def cosine(progress: float, how: Hyperparameters) -> float:
    """Decay by half a cosine to `final_factor` (0) (Loshchilov and Hutter 2017)."""
    return _fall(1.0, how.final_factor or 0.0, progress)


def snapshots(progress: float, how: Hyperparameters) -> float:
    """Go down `cycles` cosines one after the other (snapshot ensembles, Huang et al. 2017)."""
    return cosine(math.fmod(progress * how.cycles + 1e-12, 1.0), how)


def one_cycle(progress: float, how: Hyperparameters) -> float:
    """Rise from 1/25 to the full rate over 30 % of the budget, and fall to nearly nothing."""
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
    "plateau": constant,  # goes by the epochs so far: see `plateau`
}


def factor(progress: float, how: Hyperparameters) -> float:
    """Return what `lr` is multiplied with, the linear warmup over the first `warmup` included."""
    if progress < how.warmup:
        return progress / how.warmup
    after = (progress - how.warmup) / (1 - how.warmup)
    return SCHEDULES[how.schedule](after, how)


def plateau(losses: Sequence[float], how: Hyperparameters) -> float:
    """Return the factor after epochs of these validation losses: halved at every plateau.

    A plateau is `patience` epochs in turn without a loss below the lowest so far.

    >>> from scattershot_worker.training.hyperparameters import Hyperparameters
    >>> plateau([3.0, 2.0, 2.5, 2.1, 1.0], Hyperparameters(patience=2))
    0.5
    """
    lowest, waited, halvings = math.inf, 0, 0
    for loss in losses:
        if loss < lowest:
            lowest, waited = loss, 0
        else:
            waited += 1
        if waited >= how.patience:
            halvings, waited = halvings + 1, 0
    return 0.5**halvings


def momentum(progress: float, first: float, how: Hyperparameters) -> float:
    """Return the momentum on its even way to `final_momentum` (notes: 0.5 to 0.99)."""
    last = first if how.final_momentum is None else how.final_momentum
    return first + (last - first) * progress
