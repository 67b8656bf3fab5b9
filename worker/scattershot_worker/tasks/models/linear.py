"""Owns the linear classifier (or regressor): the baseline that every other network must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import nn

from scattershot_worker.tasks.models.layers import output_linear


def linear(shape: Sequence[int], outputs: int, params: Mapping[str, Any]) -> nn.Sequential:
    """Return one layer from examples of `shape`, or flat ones, to [N, outputs]; reads nothing.

    Notes: linear-classify.
    """
    return nn.Sequential(nn.Flatten(), output_linear(prod(shape), outputs))
