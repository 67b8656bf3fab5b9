"""The attempts that a supervisor holds leases on: renewed, stopped, and given back."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from redis import Redis

from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialQueue
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_spec import AttemptKey, QueuedAttempt
from scattershot_common.bus.trial_state import LEASE, TrialStates

log = logging.getLogger("scattershot.worker")

#: Seconds that a stop may take while the child has not said what study it is about.
_DEFAULT_GRACE = 30.0


@dataclass
class LeasedAttempt:
    """An attempt that the child is busy with."""

    attempt: QueuedAttempt
    #: Why it was asked to stop, and when (monotonic seconds).
    stop: StopReason | None = None
    stop_since: float | None = None

    @property
    def trial(self) -> int:
        """The trial's number."""
        return self.attempt.spec.trial


class LeasedAttempts:
    """All that the child is busy with: the attempt it was given, and those it claimed besides.

    They are of one study. An attempt that did not come to its end goes back on the queue, for
    whichever worker is next.
    """

    def __init__(self, connection: Redis, queue: TrialQueue) -> None:
        """Take a text connection for the trial states, and the queue."""
        self._connection, self._queue = connection, queue
        self._attempts: dict[AttemptKey, LeasedAttempt] = {}
        #: The study, as soon as the child has said so.
        self.info: StudyInfo | None = None
        #: Seconds, as far as this process saw them pass, since the child last made progress.
        self.idle = 0.0
        #: Whether the child was ended because it hung, or because it did not stop an attempt.
        self.hung = self.ignored_stop = False

    def __iter__(self) -> Iterator[LeasedAttempt]:
        """Iterate over a copy: attempts may come and go meanwhile."""
        return iter([*self._attempts.values()])

    def __len__(self) -> int:
        return len(self._attempts)

    def open(self, attempt: QueuedAttempt) -> None:
        """Begin with the attempt that the child was given."""
        self._attempts = {attempt.key: LeasedAttempt(attempt)}
        self.info, self.idle = None, 0.0
        self.hung = self.ignored_stop = False

    def close(self) -> None:
        """Forget what is left."""
        self._attempts = {}

    def add(self, attempt: QueuedAttempt) -> LeasedAttempt:
        """Add an attempt that the child has claimed besides."""
        leased = self._attempts[attempt.key] = LeasedAttempt(attempt)
        return leased

    def get(self, key: Any) -> LeasedAttempt | None:
        """Return the attempt of this key, which may be anything that JSON can hold."""
        try:
            study, trial, attempt = key
            return self._attempts.get((str(study), int(trial), int(attempt)))
        except (TypeError, ValueError):
            return None

    @property
    def grace(self) -> float:
        """Seconds that a stop may take."""
        return self.info.kill_grace if self.info else _DEFAULT_GRACE

    @property
    def stalled(self) -> bool:
        """Whether the child has made no progress for longer than the study allows."""
        return self.info is not None and 0 < self.info.stall < self.idle

    def overdue(self) -> LeasedAttempt | None:
        """Return an attempt that did not stop within the grace period, if there is one."""
        limit = time.monotonic() - self.grace
        for leased in self:
            if leased.stop_since is not None and leased.stop_since < limit:
                return leased
        return None

    def renew(self) -> list[tuple[LeasedAttempt, StopReason]]:
        """Renew all leases; return the attempts that must stop, and why.

        Raises one of `REDIS_OUTAGE`.
        """
        attempts = list(self)
        if not attempts:
            return []
        states = TrialStates(self._connection, attempts[0].attempt.spec.study)
        stops = states.renew_all([(leased.trial, leased.attempt.number) for leased in attempts])
        return [
            (leased, stop)
            for leased, stop in zip(attempts, stops, strict=True)
            # until the child has claimed it, it is another worker's or nobody's
            if stop and (stop is not StopReason.FENCED or self.info is not None)
        ]

    def settle(self, leased: LeasedAttempt, outcome: Outcome, reason: str) -> None:
        """Drop an attempt that is over; give it back if it did not come to its end."""
        self._attempts.pop(leased.attempt.key, None)
        if outcome is Outcome.REFUSED:
            log.info("trial %d left alone: %s", leased.trial, reason)
        if outcome.given_back:
            self._give_back(leased, outcome, reason)

    def settle_dead(self, status: int) -> None:
        """Settle all attempts of a child that has ended with `status`."""
        for leased in self:
            self.settle(leased, *self._outcome_of_death(leased, status))

    def _outcome_of_death(self, leased: LeasedAttempt, status: int) -> tuple[Outcome, str]:
        """Return what the child's death means for one of its attempts."""
        if leased.stop is not None and leased.stop is not StopReason.KILL:
            return Outcome(leased.stop), ""
        if self.hung and self.info:
            return Outcome.CRASH, f"no progress for {self.info.stall:g} s"
        if self.ignored_stop and not leased.stop:
            return Outcome.DRAIN, "another trial of its process did not stop"
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (out of memory?)" if name == "SIGKILL" and not leased.stop else ""
            return Outcome.CRASH, f"its process was ended by {name}{hint}"
        return Outcome.CRASH, f"its process exited with status {status}"

    def _give_back(self, leased: LeasedAttempt, outcome: Outcome, reason: str) -> None:
        spec, number = leased.attempt.spec, leased.attempt.number
        limit = self.info.max_failures if self.info else 3
        states = TrialStates(self._connection, spec.study)
        deadline = time.monotonic() + LEASE
        while True:
            try:
                state = states.requeue(
                    spec.trial, number, outcome, max_failures=limit, reason=reason
                )
                if state == "waiting" and outcome is Outcome.YIELD:
                    self._queue.put([(spec, number + 1)])
                elif state == "waiting" and outcome is not Outcome.HOLD:
                    self._queue.put_front(spec, number + 1)
                break
            except REDIS_OUTAGE as error:
                if time.monotonic() > deadline:  # the lease runs out: the master takes over
                    log.warning("trial %d is left to its lease: %s", spec.trial, error)
                    return
                time.sleep(0.5)
        log.info("trial %d given back (%s): %s", spec.trial, reason or outcome, state)
