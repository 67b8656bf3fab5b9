"""Owns how the loss jumps from step to step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from scattershot_worker.monitors.updates import rounded


def noise(losses: Sequence[float]) -> float:
    """Return how much a step's loss jumps, as a part of the mean loss; a trend does not count.

    The root of half the mean square of the steps' differences: the standard deviation, were there
    no trend (von Neumann, 1941).

    >>> noise([1.0, 1.0, 1.0]), noise([1.5, 0.5, 1.5, 0.5])
    (0.0, 0.707107)
    """
    mean = math.fsum(losses) / max(len(losses), 1)
    if len(losses) < 2 or not math.isfinite(mean) or mean == 0:
        return 0.0
    squares = [(b - a) ** 2 for a, b in pairwise(losses)]
    return rounded(math.sqrt(math.fsum(squares) / len(squares) / 2) / abs(mean))
