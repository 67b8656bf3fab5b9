"""Owns the attempts that a supervisor answers for: their leases, their stops, their way back."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialQueue, TrialSpec
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_state import LEASE, TrialStates

log = logging.getLogger("scattershot.worker")

#: Study, trial, attempt.
Key = tuple[str, int, int]


@dataclass
class LeasedAttempt:
    """An attempt that the child is busy with."""

    spec: TrialSpec
    number: int
    #: The spec as it was signed, and its signature.
    text: str
    signature: str
    #: Why it was asked to stop, and when; the child gets `kill_grace` seconds, then SIGKILL.
    stop: StopReason | None = None
    stop_since: float | None = None

    @classmethod
    def read(cls, text: Any, number: Any, signature: Any) -> LeasedAttempt:
        """Return what a job, or the child, says it is about; raises ValueError if it is none."""
        try:
            attempt = int(number)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a trial: {error}") from None
        return cls(TrialSpec.from_json(text), attempt, text, str(signature))

    @property
    def key(self) -> Key:
        """Study, trial and attempt: what it is called between master, supervisor and child."""
        return self.spec.study, self.spec.trial, self.number


class LeasedAttempts:
    """All that the child is busy with: the attempt it was given, and the lanes it took besides.

    They are of one study. `give_back` puts an attempt that did not come to its end back on the
    queue, for whichever worker is next.
    """

    def __init__(self, connection: Redis, queue: TrialQueue) -> None:
        """Take a text connection for the trial states, and the queue."""
        self._connection, self._queue = connection, queue
        self._all: dict[Key, LeasedAttempt] = {}
        #: The study, as soon as the child has said so.
        self.info: StudyInfo | None = None
        #: Seconds, as far as this process saw them pass, since the child last said it gets on.
        self.idle = 0.0
        #: Whether the child was ended because it hung, or did not heed the stop of one of them.
        self.hung = self.deaf = False

    def __iter__(self) -> Iterator[LeasedAttempt]:
        """Go through them; others may come and go meanwhile."""
        return iter([*self._all.values()])

    def __len__(self) -> int:
        return len(self._all)

    def open(self, first: LeasedAttempt) -> None:
        """Answer for `first`, and for nothing else any more."""
        self._all = {first.key: first}
        self.info, self.idle = None, 0.0
        self.hung = self.deaf = False

    def close(self) -> None:
        """Answer for nothing any more."""
        self._all = {}

    def take(self, charge: LeasedAttempt) -> None:
        """Answer for another one, that the child has claimed."""
        self._all[charge.key] = charge

    def get(self, key: Any) -> LeasedAttempt | None:
        """Return the one of this key, as it comes out of JSON."""
        try:
            study, trial, attempt = key
            return self._all.get((str(study), int(trial), int(attempt)))
        except (TypeError, ValueError):
            return None

    @property
    def grace(self) -> float:
        """Seconds that a stop may take."""
        return self.info.kill_grace if self.info else 30.0

    @property
    def stalls(self) -> bool:
        """Whether the child has made no progress for longer than the study allows."""
        return self.info is not None and 0 < self.info.stall < self.idle

    def renew(self) -> list[tuple[LeasedAttempt, StopReason]]:
        """Renew all leases; return whom Redis wants to stop, and why.

        Raises one of `REDIS_OUTAGE`.
        """
        charges = list(self)
        if not charges:
            return []
        states = TrialStates(self._connection, charges[0].spec.study)
        answers = states.renew_all([(one.spec.trial, one.number) for one in charges])
        return [
            (charge, stop)
            for charge, stop in zip(charges, answers, strict=True)
            # until the child has claimed it, it is somebody else's or nobody's
            if stop and (stop is not StopReason.FENCED or self.info is not None)
        ]

    def settle(self, charge: LeasedAttempt, outcome: Outcome, reason: str) -> None:
        """Answer for one no more; give it back if it did not come to its end."""
        self._all.pop(charge.key, None)
        if outcome is Outcome.REFUSED:
            log.info("trial %d left alone: %s", charge.spec.trial, reason)
        if outcome.given_back:
            self._give_back(charge, outcome, reason)

    def bury(self, status: int) -> None:
        """Settle all, whose child has ended with `status`."""
        for charge in self:
            self.settle(charge, *self._fate(charge, status))

    def _fate(self, charge: LeasedAttempt, status: int) -> tuple[Outcome, str]:
        """Return what the child's death means for one of its attempts."""
        if charge.stop is not None and charge.stop is not StopReason.KILL:
            return Outcome(charge.stop), ""
        if self.hung and self.info:
            return Outcome.CRASH, f"no progress for {self.info.stall:g} s"
        if self.deaf and not charge.stop:
            return Outcome.DRAIN, "another trial of its process did not stop"
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (out of memory?)" if name == "SIGKILL" and not charge.stop else ""
            return Outcome.CRASH, f"its process was ended by {name}{hint}"
        return Outcome.CRASH, f"its process exited with status {status}"

    def _give_back(self, charge: LeasedAttempt, outcome: Outcome, reason: str) -> None:
        limit = self.info.max_failures if self.info else 3
        states = TrialStates(self._connection, charge.spec.study)
        deadline = time.monotonic() + LEASE
        while True:
            try:
                state = states.requeue(
                    charge.spec.trial, charge.number, outcome, max_failures=limit, reason=reason
                )
                if state == "waiting" and outcome is Outcome.YIELD:
                    self._queue.put([(charge.spec, charge.number + 1)])
                elif state == "waiting" and outcome is not Outcome.HOLD:
                    self._queue.put_front(charge.spec, charge.number + 1)
                break
            except REDIS_OUTAGE as error:
                if time.monotonic() > deadline:  # the lease runs out: the master takes over
                    log.warning("trial %d is left to its lease: %s", charge.spec.trial, error)
                    return
                time.sleep(0.5)
        log.info("trial %d given back (%s): %s", charge.spec.trial, reason or outcome, state)


def charge_of(message: Mapping[str, Any]) -> LeasedAttempt:
    """Return the lane that a child says it has taken."""
    return LeasedAttempt.read(message["took"], message["number"], message["signature"])
