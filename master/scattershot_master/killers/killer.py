"""What a killer is: a function of one trial's curve and its peers' to a `Verdict`."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Literal, overload

from scattershot_common.objective import Objective


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial is to do, and why (the reason is shown to the user)."""

    action: Literal["continue", "kill", "pause"]
    reason: str = ""


GO_ON = Verdict("continue")
#: The objective of a killer that is given none: larger is better.
OBJECTIVE = Objective("val_accuracy")


@dataclass(frozen=True, slots=True)
class Curve:
    """One trial's history as a killer sees it: at least one epoch.

    `values[e - 1]` is the metric of epoch e turned so that larger is better (negated when the
    goal is to minimize), and `losses[e - 1]` its training loss (else its validation loss; None
    where neither was reported, so that a NaN is always a loss that came out as NaN). Both may
    be NaN or infinite. `budget` is the epoch the trial trains to in this stage.
    """

    trial: int
    values: Sequence[float]
    losses: Sequence[float | None]
    budget: int

    @property
    def epoch(self) -> int:
        """The last epoch reported, from 1."""
        return len(self.values)

    @property
    def standing(self) -> float:
        """The best value so far; minus infinity while the latest is NaN or infinite.

        So a trial that has just diverged loses every comparison, however good it was.

        >>> Curve(0, [0.5, 0.4], [], 9).standing, Curve(0, [0.5, float("nan")], [], 9).standing
        (0.5, -inf)
        """
        return best(self.values) if isfinite(self.values[-1]) else -inf


def best(values: Sequence[float]) -> float:
    """Return the largest finite value; minus infinity when there is none."""
    return max(filter(isfinite, values), default=-inf)


class Peers:
    """The standings (see `Curve.standing`) of a stage's trials by epoch.

    Adding and judging cost O(log n) comparisons: the 5,000th trial costs what the 500th did.
    """

    def __init__(self) -> None:
        self._best: dict[int, float] = {}
        self._standings: dict[int, dict[int, float]] = {}
        self._sorted: dict[int, list[float]] = {}

    def add(self, trial: int, epoch: int, value: float) -> None:
        """Record `value` (larger is better) of `trial` at `epoch`.

        Epochs of a trial come in order; one that comes again (a second attempt) changes nothing.
        """
        standings = self._standings.setdefault(epoch, {})
        if trial in standings:
            return
        standing = -inf
        if isfinite(value):
            standing = self._best[trial] = max(value, self._best.get(trial, -inf))
        standings[trial] = standing
        insort(self._sorted.setdefault(epoch, []), standing)

    def others(self, epoch: int, trial: int) -> Sequence[float]:
        """Return the standings of all that reached `epoch` but `trial`, ascending, without a copy.

        Whether the trial's own value was added before it is judged therefore does not matter.
        """
        ranked = self._sorted.get(epoch, [])
        own = self._standings.get(epoch, {}).get(trial)
        return ranked if own is None else _Without(ranked, bisect_left(ranked, own))


class _Without(Sequence[float]):
    """A list seen without one of its positions."""

    def __init__(self, values: list[float], hole: int) -> None:
        self._values, self._hole = values, hole

    def __len__(self) -> int:
        return len(self._values) - 1

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...
    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._values[index + (index >= self._hole)]


@dataclass(frozen=True, kw_only=True)
class Killer:
    """A rule of [kill], built with the options it uses. Every hook does nothing unless overridden.

    `grace` is the first epoch at which a trial may be killed. `objective` turns values back for
    the reasons, which show what the user reported.
    """

    grace: int = 1
    objective: Objective = field(default=OBJECTIVE, repr=False)

    def stops(self, budget: int) -> Sequence[int]:
        """Return the epochs (ascending, below `budget`) at which every trial waits for its peers.

        A trial with a stop trains up to it and pauses by itself, so the outcome of `settle`
        cannot depend on timing. A trial that goes on from an earlier stage has passed the stops
        up to its last epoch.
        """
        return ()

    def judge(self, curve: Curve, peers: Peers) -> Verdict:
        """Judge a trial that has just reported (`build.judge_all` checks grace and budget)."""
        return GO_ON

    def settle(self, epoch: int, standings: Mapping[int, float]) -> Mapping[int, Verdict]:
        """Decide a rung once every trial of the stage stands at `epoch`, has failed or was killed.

        `standings` maps trial → best-so-far value (larger is better) of those that wait at it.
        """
        return {trial: GO_ON for trial in standings}

    def show(self, value: float) -> str:
        """Return `value` as the user reported it, for a reason."""
        return f"{self.objective.score(value):.6g}"
