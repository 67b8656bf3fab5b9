"""Child processes that die with their parent, on Linux even when it is SIGKILLed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable


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
