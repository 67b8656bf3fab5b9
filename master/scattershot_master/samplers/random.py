"""The random sampler: independent uniform points, the notes' random search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scattershot_common.seeds import derive
from scattershot_common.space.space import Box
from scattershot_master.samplers.sampler import Observation


class RandomSampler:
    """Draws each point from a random stream of its own, keyed by (seed, stage, index).

    Source: Bergstra and Bengio (2012), "Random search for hyper-parameter optimization"; the
    CS231n notes, neural-networks-3, "Hyperparameter optimization": prefer random to grid search.

    >>> draw = RandomSampler(0, "coarse", Box((((0.0, 1.0),),) * 2)).ask
    >>> draw(7, 1) == draw(0, 8)[7:]
    True
    """

    uses_history = False

    def __init__(self, seed: int, stage: str, box: Box) -> None:
        self._seed, self._stage, self._dims = seed, stage, len(box.sides)

    def ask(self, first: int, count: int, history: Sequence[Observation] = ()) -> list[list[float]]:
        """Return `count` points of uniform coordinates."""
        return [self._point(index) for index in range(first, first + count)]

    def _point(self, index: int) -> list[float]:
        stream = np.random.PCG64(derive(self._seed, "point", self._stage, index))
        coordinates: list[float] = np.random.Generator(stream).random(self._dims).tolist()
        return coordinates
