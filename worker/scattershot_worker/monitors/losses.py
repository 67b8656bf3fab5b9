"""Owns the losses of single steps: the first of all, how they run in an epoch, how they jump."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from scattershot_worker.monitors.updates import rounded

#: Points that the curve of an epoch has at most.
POINTS = 32


def curve(losses: Sequence[float], points: int = POINTS) -> list[float]:
    """Return the losses of an epoch's steps as at most `points` means of equal parts.

    >>> curve([4.0, 2.0, 1.0, 1.0], points=2)
    [3.0, 1.0]
    """
    parts = min(points, len(losses))
    cuts = [round(part * len(losses) / parts) for part in range(parts + 1)] if parts else []
    return [rounded(math.fsum(losses[a:b]) / (b - a)) for a, b in pairwise(cuts)]


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


def line(losses: Sequence[float]) -> dict[str, Any]:
    """Return an epoch's line for the layers' file."""
    return {"losses": curve(losses), "noise": noise(losses)}
