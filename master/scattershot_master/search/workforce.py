"""Owns who is there to work, how fast trials end, and so how many must wait on the queue."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from scattershot_common.bus.workers import Heartbeat

#: Seconds without any worker after which the user is told.
_UNATTENDED_S = 15.0
#: Seconds of work that should wait on the queue.
_AHEAD_S = 0.5
#: Trials that wait for each lane: a few models of different shapes are searched together.
_CHOICE = 4


class Workforce:
    """The workers as the master last saw them; `note` is told of comings and goings."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.workers: Sequence[Heartbeat] = ()
        self._note = note
        self._unattended_since = time.monotonic()
        self._ends: deque[float] = deque(maxlen=200)

    def meet(self, workers: Sequence[Heartbeat]) -> None:
        """Take in who is there now."""
        before, now = {one.name for one in self.workers}, {one.name for one in workers}
        self.workers = workers
        for name in sorted(now - before):
            self._note(f"worker {name} is here")
        for name in sorted(before - now):
            self._note(f"worker {name} has gone")
        if workers:
            self._unattended_since = time.monotonic()
        elif time.monotonic() - self._unattended_since > _UNATTENDED_S:
            self._unattended_since = math.inf  # once is enough
            self._note(
                "no worker is here: start one with `scattershot worker --redis URL --out FOLDER`"
            )

    def trial_ended(self) -> None:
        """Count a trial's end for the rate."""
        self._ends.append(time.monotonic())

    def rate(self) -> float | None:
        """Return trials ended per second, of late; None before there is evidence."""
        if len(self._ends) < 3:
            return None
        return (len(self._ends) - 1) / max(time.monotonic() - self._ends[0], 1e-6)

    def lookahead(self) -> int:
        """Return how many trials should wait on the queue so that no worker ever does.

        A worker that trains many at once chooses among them those that fit each other.
        """
        lanes = sum(worker.lanes for worker in self.workers if worker.lanes > 1)
        rate = math.ceil(_AHEAD_S * (self.rate() or 0.0))
        return max(2, len(self.workers)) + _CHOICE * lanes + rate
