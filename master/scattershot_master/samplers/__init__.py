"""Owns the table of samplers. A sampler is a function of (seed, stage, index, dims) alone."""

from __future__ import annotations

from collections.abc import Callable

from scattershot_master.samplers import random, sobol

#: (study seed, stage name, index of the point in the stage, dimensions) → a point of [0, 1)^dims.
SAMPLERS: dict[str, Callable[[int, str, int, int], list[float]]] = {
    "random": random.point,
    "sobol": sobol.point,
}
