"""This machine's processors: CPU cores, and NVIDIA GPUs as the driver lists them, without torch."""

from __future__ import annotations

import os


def cpu_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_names() -> list[str]:
    """Return the names of the NVIDIA GPUs, in the driver's order; none without a driver.

    CUDA_VISIBLE_DEVICES is not looked at.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    names = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                names.append(
                    str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)))
                )
            except pynvml.NVMLError:  # one that this user must not use, or that has failed
                names.append(f"GPU {index}")
    finally:
        pynvml.nvmlShutdown()
    return names
