"""Why a running attempt must stop (`StopReason`), and how an attempt went (`Outcome`)."""

from __future__ import annotations

from enum import StrEnum


class StopReason(StrEnum):
    """Why a running attempt must leave its training. The values are what Redis has."""

    #: The trial was killed: by a killer, or by hand.
    KILL = "kill"
    #: The study stops for now: the trial waits until it goes on.
    HOLD = "hold"
    #: The worker leaves, or cannot reach Redis: another one is to go on with the trial.
    DRAIN = "drain"
    #: The attempt is no longer the trial's current one: nothing it says counts.
    FENCED = "fenced"

    @classmethod
    def of(cls, answer: object) -> StopReason | None:
        """Return what Redis answers to a heartbeat or a report: a reason to stop, or None.

        >>> StopReason.of("kill"), StopReason.of("")
        (<StopReason.KILL: 'kill'>, None)
        """
        return cls(str(answer)) if answer else None


class Outcome(StrEnum):
    """How an attempt went. The values stand in the ledger and in the study's event stream."""

    #: It came to an end that was reported: complete, paused, killed or failed.
    ENDED = "ended"
    #: It was not begun: the trial does not wait for it, or this worker must not train it.
    REFUSED = "refused"
    #: Another attempt has taken over.
    FENCED = "fenced"
    #: Given back unfinished, for the reasons of `StopReason`.
    DRAIN = "drain"
    HOLD = "hold"
    #: Given back after its process died, or for lack of memory or storage: counts as a failure.
    CRASH = "crash"
    #: Given back to the end of the queue, for a worker that trains trials of its kind.
    YIELD = "yield"
    #: Its worker gave no sign of life for longer than a lease (the master's finding): a failure.
    LOST = "lost"

    @property
    def given_back(self) -> bool:
        """Whether the supervisor puts the trial back."""
        return self in (Outcome.CRASH, Outcome.DRAIN, Outcome.HOLD, Outcome.YIELD)


#: Outcomes that count against a study's `max_failures`.
FAILURES = frozenset({Outcome.CRASH, Outcome.LOST})
