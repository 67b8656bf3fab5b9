"""Owns the outputs of a network that knows nothing, by what its outputs are: see `uninformed`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: So many values between 0 and 1, or sums of 1, are no coincidence.
_ENOUGH = 8


def uninformed(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return outputs like these [N, …] that say the same of every example, and know nothing.

    Zeros, but for a model that ends in a log-softmax (ln 1/C), a softmax (1/C) or a sigmoid (1/2).
    Classes are the second axis.
    """
    if outputs.dim() > 1 and (classes := outputs.shape[1]) > 1:
        if _ones(outputs.logsumexp(1).exp()) and outputs.max() <= 0:
            return torch.full_like(outputs, -math.log(classes))
        if outputs.min() >= 0 and _ones(outputs.sum(1)):
            return torch.full_like(outputs, 1 / classes)
    enough = outputs.numel() == targets.numel() >= _ENOUGH
    if enough and outputs.min() >= 0 and outputs.max() <= 1 and outputs.max() > 0:
        return torch.full_like(outputs, 0.5)
    return torch.zeros_like(outputs)


def _ones(sums: Tensor) -> bool:
    """Return whether all of many sums are 1."""
    return sums.numel() >= _ENOUGH and bool(((sums - 1).abs() < 1e-3).all())
