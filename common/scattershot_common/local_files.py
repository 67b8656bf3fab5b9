"""Files of this machine: advisory locks."""

from __future__ import annotations

import fcntl
from typing import IO


def lock(file: IO[bytes], *, shared: bool = False) -> None:
    """Lock an open file until it is closed or this process ends; returns or raises at once.

    A `shared` lock keeps exclusive ones out, and several may be held: it tells whether somebody
    holds the file exclusively, without creating it or keeping another such probe out.

    Raises:
        BlockingIOError: another process, or another open file of this one, holds it.
        OSError: its file system has no locks.
    """
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
