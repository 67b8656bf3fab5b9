"""The objective of a study: which metric trials are ranked by, and whether larger is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Goal = Literal["maximize", "minimize"]


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric and its goal. The only place that knows which of two values is better.

    >>> loss = Objective("val_loss", "minimize")
    >>> loss.better(0.1, 0.2), loss.best([0.3, float("nan"), 0.2])
    (True, 0.2)
    """

    metric: str
    goal: Goal = "maximize"

    @property
    def sign(self) -> int:
        """Return 1 where larger values are better, else -1."""
        return 1 if self.goal == "maximize" else -1

    def score(self, value: float) -> float:
        """Return `value` turned so that larger is better; twice applied it is `value` again."""
        return self.sign * value

    def of(self, metrics: Mapping[str, float]) -> float:
        """Return the metric's value among those of an epoch; NaN where it was not reported."""
        return metrics.get(self.metric, math.nan)

    def better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another; nothing is better than a NaN or infinity.

        Any finite value is better than one that is not finite.
        """
        if not math.isfinite(value):
            return False
        return not math.isfinite(than) or self.score(value) > self.score(than)

    def best(self, values: Iterable[float]) -> float:
        """Return the best of the finite values; NaN where there is none."""
        finite = [value for value in values if math.isfinite(value)]
        return max(finite, key=self.score, default=math.nan)
