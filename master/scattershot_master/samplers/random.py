"""Owns the random sampler: independent uniform points, the notes' random search."""

from __future__ import annotations

import numpy as np

from scattershot_common.seeds import derive


def point(seed: int, stage: str, index: int, dims: int) -> list[float]:
    """Return point `index` of a stage: `dims` uniform coordinates in [0, 1).

    Each point has its own stream, keyed by (seed, stage, index): none has to be drawn before it.

    Source: Bergstra and Bengio (2012), "Random search for hyper-parameter optimization"; the
    CS231n notes, neural-networks-3, "Hyperparameter optimization": prefer random to grid search.

    >>> point(0, "coarse", 7, 2) == point(0, "coarse", 7, 2)
    True
    """
    stream = np.random.PCG64(derive(seed, "point", stage, index))
    coordinates: list[float] = np.random.Generator(stream).random(dims).tolist()
    return coordinates
