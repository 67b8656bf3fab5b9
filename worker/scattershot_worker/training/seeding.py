"""Seeding of the global random number generators of Python, numpy and torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

#: The seed with which a task reads its data, and a loader is evaluated.
DATA_SEED = 0


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed does the same, but notes a stack trace for every kind of device that is
    # not initialized: half a millisecond, which is much for an epoch of a small network.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def fixed_seed(seed: int = DATA_SEED) -> Iterator[None]:
    """Draw with one seed inside; outside, the generators go on as if nothing had been drawn.

    So a random split is the same in every worker.
    """
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            seed_everything(seed)
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
