"""This machine: its CPU cores and GPUs, processes that end with their parent, signals to stop."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

#: Signals that ask for a clean stop, as SIGTERM does, however often they come: a terminal that is
#: closed, and what a batch system sends before it ends a job. One that is ignored (nohup) stays so.
WARNINGS = tuple(
    getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


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


def die_with_parent(signal_number: int = signal.SIGTERM) -> Callable[[], None]:
    """Return a `preexec_fn` that makes the kernel signal the child when its parent dies.

    Linux only (prctl PR_SET_PDEATHSIG); elsewhere it does nothing and children watch their
    parent's pid themselves.
    """
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def request_signal() -> None:
        libc.prctl(1, signal_number)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return request_signal


def on_stop(handler: Callable[[int, FrameType | None], object]) -> dict[int, Any]:
    """Let `handler` take Ctrl-C, SIGTERM and `WARNINGS`; return the handlers before, by signal."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    numbers += [number for number in WARNINGS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}
