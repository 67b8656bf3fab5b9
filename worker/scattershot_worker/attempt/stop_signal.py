"""Owns what a training and the outside tell each other: it must stop, it gets on."""

from __future__ import annotations

from scattershot_common.bus.outcome import StopReason


class TrialStopped(BaseException):
    """Unwinds a training loop. Not an `Exception`, so that a user's `except` lets it pass."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


class StopSignal:
    """Whether the current trial must stop, and why; the first reason stays.

    Set by the thread that listens to the supervisor and by the one that reports; a plain
    attribute, since reading it has to cost nothing.
    """

    def __init__(self) -> None:
        self.stop: StopReason | None = None
        #: What went wrong in the background (a full disk); raised in the training loop.
        self.error: Exception | None = None
        #: Grows with every look and every report: a training that hangs does neither.
        self.progress = 0

    def set(self, reason: StopReason) -> None:
        """Ask for a stop."""
        if self.stop is None:
            self.stop = reason

    def check(self) -> None:
        """Raise `TrialStopped`, or the background's error, if there is one."""
        self.progress += 1
        if self.error is not None:
            raise self.error
        if self.stop is not None:
            raise TrialStopped(self.stop)
