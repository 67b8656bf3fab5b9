"""The workers of a search: who is there, how fast trials end, how many trials should wait."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence

from scattershot_common.bus.workers import Heartbeat

#: Seconds without any worker after which the user is told.
_UNATTENDED_S = 15.0
#: Seconds of work that should wait on the queue.
_AHEAD_S = 0.5
#: Trials that wait for each lane: a few models of different shapes are searched together.
_PER_LANE = 4


class Workforce:
    """The workers as the master last saw them."""

    def __init__(self) -> None:
        self.workers: Sequence[Heartbeat] = ()
        self._unattended_since = time.monotonic()
        self._ends: deque[float] = deque(maxlen=200)

    def update(self, workers: Sequence[Heartbeat]) -> list[str]:
        """Take in which workers there are now; return what the user is to be told."""
        before, now = ({worker.name for worker in group} for group in (self.workers, workers))
        self.workers = workers
        notes = [f"worker {name} is here" for name in sorted(now - before)]
        notes += [f"worker {name} has gone" for name in sorted(before - now)]
        if workers:
            self._unattended_since = time.monotonic()
        elif time.monotonic() - self._unattended_since > _UNATTENDED_S:
            self._unattended_since = math.inf  # once is enough
            notes.append(
                "no worker is here: start one with `scattershot worker --redis URL --out FOLDER`"
            )
        return notes

    def trial_ended(self) -> None:
        """Count a trial's end for the rate."""
        self._ends.append(time.monotonic())

    def rate(self) -> float | None:
        """Return how many of the last trials ended per second; None before there is evidence."""
        if len(self._ends) < 3:
            return None
        return (len(self._ends) - 1) / max(time.monotonic() - self._ends[0], 1e-6)

    def lookahead(self) -> int:
        """Return how many trials should wait on the queue so that no worker has to wait for one.

        A worker that trains many at once chooses those with the same signature among them.
        """
        lanes = sum(worker.lanes for worker in self.workers if worker.lanes > 1)
        rate = math.ceil(_AHEAD_S * (self.rate() or 0.0))
        return max(2, len(self.workers)) + _PER_LANE * lanes + rate
