"""Owns what the machine did for an epoch: for people; no decision and no comparison reads it."""

from __future__ import annotations

import resource
import sys

import torch


def scalars(device: torch.device, examples: int, seconds: float) -> dict[str, float]:
    """Return "seconds" of the epoch, "examples_per_second" and "memory_mb".

    Memory is the most that was used since the start of the process: the device's by torch where
    that is a GPU, else the process's.
    """
    if device.type == "cuda":
        used = float(torch.cuda.max_memory_allocated(device))
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        used *= 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": round(seconds, 4),
        "examples_per_second": round(examples / max(seconds, 1e-9)),
        "memory_mb": round(used / 2**20),
    }
