"""A study's Redis side kept as its ledger has it: carries out decisions, puts back what was lost.

The search calls it; it calls nothing back, but returns what it found. Every operation may
be repeated without harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from scattershot_common.bus.lane_signatures import Signatures
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.stream import Event
from scattershot_common.bus.workers import Heartbeat
from scattershot_master.search.redis_study import RedisStudy
from scattershot_master.state.ledger import Ledger
from scattershot_master.state.study_state import TrialRecord


class Loss(Enum):
    """What Redis has lost since it was last looked at."""

    NOTHING = "nothing"
    #: The server was started again: perhaps its last second.
    RECENT = "recent"
    EVERYTHING = "everything"


class RedisSync:
    """Makes Redis know what the ledger holds."""

    def __init__(self, ledger: Ledger, redis_study: RedisStudy) -> None:
        """Take the open ledger and the study's side of the bus."""
        self._ledger, self._state, self._redis = ledger, ledger.state, redis_study
        self._held: set[tuple[int, int]] = set()

    def read(
        self, *, block_ms: int | None, count: int = 500, after: str | None = None
    ) -> list[Event]:
        """Return the events after id `after` (None: that the ledger does not have yet).

        `block_ms` is how long to wait for the first one.
        """
        cursor = self._state.cursor if after is None else after
        return self._redis.stream.read(cursor, block_ms=block_ms, count=count)

    def send(self, trials: Sequence[TrialRecord]) -> None:
        """Make trials known at their present budget, and put those that wait on the queue."""
        self._redis.send(trials)

    def kill(self, trials: Sequence[TrialRecord]) -> None:
        """Ask for the end of trials, each for its own reason."""
        self._redis.stop(trials, StopReason.KILL, None)

    # ---- what Redis has lost

    def forget_beyond(self) -> bool:
        """Let Redis forget trials if events after the ledger's end are gone; say whether it did."""
        self._redis.restarted()  # from now on
        return self._redis.forget_beyond(self._state.cursor)

    def check(self) -> Loss:
        """Stay the master, and return what Redis has lost; publish the study again if it has to.

        Raises:
            ScattershotError: another master has taken over.
        """
        self._redis.renew()
        if self._lost_all():
            return Loss.EVERYTHING
        if self._redis.restarted():
            self._redis.states.extend_leases()
            return Loss.RECENT
        return Loss.NOTHING

    def reconnect(self) -> Loss:
        """Return what was lost in an outage; all leases begin anew, so that none has run out in it.

        Raises one of REDIS_OUTAGE: it is not over.
        """
        self._redis.connection.ping()
        self._redis.states.extend_leases()
        return Loss.EVERYTHING if self._lost_all() else Loss.RECENT

    def _lost_all(self) -> bool:
        if self._redis.published():
            return False
        self._redis.take(by_force=True)
        return True

    def resync(self) -> list[TrialRecord]:
        """Make Redis know all that the ledger does: ends, living trials, budgets.

        To be called when the ledger has all events of the stream. Returns the trials to kill.
        """
        state, queued = self._state, self._redis.queue.waiting()
        self._redis.settle(state.trials, queued)
        living = sorted(
            number
            for trial_state in ("waiting", "running", "paused")
            for number in state.by_state[trial_state]
        )
        trials = [state.trials[number] for number in living]
        Signatures(self._redis.connection, state.name).restore(state.kinds)
        self._redis.send(trials, queued=queued)
        return [trial for trial in trials if trial.kill_asked]

    def extend_leases(self) -> None:
        """Let the leases of all running trials begin anew."""
        self._redis.states.extend_leases()

    def free_running(self) -> None:
        """Take up trials whose workers ended with the last master; that is no failure of theirs."""
        states = self._redis.states
        for number in self._state.by_state["running"] | self._state.by_state["waiting"]:
            trial = self._state.trials[number]
            trial_state, attempt = states.submit(
                number,
                trial.until,
                attempt=trial.attempts,
                epoch=trial.done,
                checkpoint=trial.checkpoint,
                failures=trial.failures,
            )
            if trial_state == "running":
                states.requeue(number, attempt, Outcome.DRAIN, max_failures=0)

    # ---- what workers have lost

    def put_back(self) -> None:
        """Put trials back that a worker has lost, and forget events that the ledger has."""
        state = self._state
        self._redis.reap(state.trials, state.settings.worker.max_failures)
        # what runs as far as the ledger knows may wait again in a Redis that lost its last second
        numbers = state.by_state["waiting"] | state.by_state["running"]
        self._redis.find_lost(state.trials[number] for number in numbers)
        if self._ledger.synced_cursor:
            self._redis.trim(self._ledger.synced_cursor)

    def workers(self) -> list[Heartbeat]:
        """Return the workers that there are."""
        return self._redis.workers()

    # ---- the end

    def clear_queue(self) -> None:
        """Take waiting trials off the queue, so that no worker begins one."""
        state = self._state
        self._redis.clear_queue(state.trials[number] for number in state.by_state["waiting"])

    def hold_running(self) -> bool:
        """Ask every running trial once to go back to waiting; return whether there are any."""
        running = [self._state.trials[number] for number in self._state.by_state["running"]]
        unasked = [trial for trial in running if (trial.number, trial.attempts) not in self._held]
        self._redis.stop(unasked, StopReason.HOLD, "")
        self._held |= {(trial.number, trial.attempts) for trial in unasked}
        return bool(running)
