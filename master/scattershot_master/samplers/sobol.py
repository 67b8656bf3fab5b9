"""The Sobol sampler: scrambled points that fill the cube more evenly than random ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scattershot_common.seeds import derive
from scattershot_common.space.space import Box
from scattershot_master.samplers.sampler import Observation


class SobolSampler:
    """Draws the points of a Sobol sequence in their order; its scrambling follows (seed, stage).

    Source: Owen (1998), "Scrambling Sobol' and Niederreiter-Xing points".

    >>> draw = SobolSampler(0, "coarse", Box((((0.0, 1.0),),) * 2)).ask
    >>> draw(7, 1) == draw(0, 8)[7:]
    True
    """

    uses_history = False

    def __init__(self, seed: int, stage: str, box: Box) -> None:
        self._seed, self._stage, self._dims = seed, stage, len(box.sides)

    def ask(self, first: int, count: int, history: Sequence[Observation] = ()) -> list[list[float]]:
        """Return `count` points. Raises ValueError beyond 21,201 dimensions."""
        if not self._dims:
            return [[] for _ in range(count)]
        sequence = _sequence(self._seed, self._stage, self._dims)
        return [sequence.at(index) for index in range(first, first + count)]


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
