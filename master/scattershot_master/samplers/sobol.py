"""Owns the Sobol sampler: scrambled points that fill the cube more evenly than random ones."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scattershot_common.seeds import derive


def point(seed: int, stage: str, index: int, dims: int) -> list[float]:
    """Return point `index` of a stage's scrambled Sobol sequence: `dims` coordinates in [0, 1).

    The scrambling is keyed by (seed, stage). Raises ValueError beyond 21,201 dimensions.

    Source: Owen (1998), "Scrambling Sobol' and Niederreiter-Xing points".

    >>> point(0, "coarse", 7, 2) == point(0, "coarse", 7, 2)
    True
    """
    if not dims:
        return []
    return _sequence(seed, stage, dims).at(index)


class _Sequence:
    """A sequence drawn so far, doubled when a point beyond it is asked for."""

    def __init__(self, seed: int, dims: int) -> None:
        from scipy.stats import qmc  # 0.9 s

        self._engine: Any = qmc.Sobol(dims, scramble=True, seed=np.random.default_rng(seed))
        self._points: NDArray[np.float64] = self._engine.random(64)

    def at(self, index: int) -> list[float]:
        while index >= len(self._points):
            more = self._engine.random(len(self._points))
            self._points = np.concatenate([self._points, more])
        coordinates: list[float] = self._points[index].tolist()
        return coordinates


@lru_cache(maxsize=16)
def _sequence(seed: int, stage: str, dims: int) -> _Sequence:
    return _Sequence(derive(seed, "sobol", stage), dims)
