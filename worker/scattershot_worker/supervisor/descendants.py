"""What a worker's processes leave behind when they end: it is adopted, reaped, and ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

#: Seconds that a process left behind has to end by SIGTERM.
_ENDS_WITHIN = 1.0


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends, instead of init.

    Linux only (prctl PR_SET_CHILD_SUBREAPER). Whoever adopts must reap: see `reap_orphans`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def reap_orphans(own: Collection[int]) -> None:
    """Reap adopted processes that have ended, but none of `own`, which their `Popen` reaps."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(ChildProcessError):
        options = os.WEXITED | os.WNOHANG
        while (ended := os.waitid(os.P_ALL, 0, options | os.WNOWAIT)) and ended.si_pid not in own:
            os.waitid(os.P_PID, ended.si_pid, options)


def end_descendants(keep: Collection[int] = ()) -> None:
    """End all processes that descend from this one, but `keep` and what these have started.

    First by SIGTERM, then by SIGKILL. Descendants whose parent has ended are known on Linux only,
    after `adopt_orphans`.
    """
    import psutil

    for attempt in range(10):  # what forks while it is ended is found in the next round
        if not (descendants := _descendants(keep)):
            return
        for process in descendants:
            with contextlib.suppress(psutil.Error):
                if attempt == 0:
                    process.terminate()
                else:
                    process.kill()
        psutil.wait_procs(descendants, timeout=_ENDS_WITHIN)


def _descendants(keep: Collection[int]) -> list[psutil.Process]:
    import psutil

    descendants: list[psutil.Process] = []
    for child in psutil.Process().children():
        if child.pid not in keep:
            with contextlib.suppress(psutil.Error):
                descendants += child.children(recursive=True)
            descendants.append(child)
    return descendants
