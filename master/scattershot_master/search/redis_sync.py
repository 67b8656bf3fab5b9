"""Owns Redis' side of a study: it is kept as the ledger has it, whatever befalls Redis."""

from __future__ import annotations

import time
from collections.abc import Callable

from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.signatures import Signatures
from scattershot_common.bus.stream import Event
from scattershot_master.search.redis_study import RedisStudy
from scattershot_master.state.ledger import Ledger
from scattershot_master.state.study_state import TrialRecord

#: Seconds between tries while Redis is away.
_RETRY_AFTER = 0.5


class RedisSync:
    """Carries out what is written down, and all of it again where Redis has lost some.

    Everything here may be done twice without harm.
    """

    def __init__(
        self,
        ledger: Ledger,
        dispatch: RedisStudy,
        *,
        take: Callable[[Event], None],
        note: Callable[[str], None],
        tend: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> None:
        """Take the open ledger and its side of the bus.

        `take` takes in what workers did, `note` tells the user, `tend` keeps what runs on this
        machine alive meanwhile, and `stopping` says whether waiting makes no sense any more.
        """
        self._ledger, self._state, self._dispatch = ledger, ledger.state, dispatch
        self._take, self._note, self._tend, self._stopping = take, note, tend, stopping
        #: Trials to be made known or sent, and trials to be killed, at the next `act`.
        self.outbox: list[TrialRecord] = []
        self.kills: list[TrialRecord] = []

    def begin(self, *, workers_gone: bool) -> None:
        """Give Redis all it must know of the study; see `Search.run` for `workers_gone`."""
        while not self._stopping():
            try:
                self._dispatch.restarted()  # from now on
                if self._dispatch.forget_beyond(self._state.cursor):
                    self._note("the ledger ends before what Redis knows: Redis forgets it")
                if workers_gone:
                    self._catch_up()
                    self._free_running()
                else:
                    self._dispatch.states.extend_leases()
                self._resync()
                return
            except REDIS_OUTAGE as error:
                self.outwait(error)

    def act(self) -> None:
        """Carry out what is written down. After a failure `_resync` does all of it again."""
        self._dispatch.stop(self.kills, StopReason.KILL, None)
        self.kills.clear()
        self._dispatch.send(self.outbox)
        self.outbox.clear()

    def keep(self, max_failures: int) -> None:
        """Stay the master, and put back what Redis, or a worker, has lost."""
        state, dispatch = self._state, self._dispatch
        dispatch.renew()
        if not self._restore() and dispatch.restarted():
            dispatch.states.extend_leases()
            self._resync()
        dispatch.reap(state.trials, max_failures)
        # what runs as far as the ledger knows may wait again in a Redis that lost its last second
        sought = state.by_state["waiting"] | state.by_state["running"]
        dispatch.find_lost(state.trials[number] for number in sought)
        if self._ledger.synced_cursor:
            dispatch.trim(self._ledger.synced_cursor)

    def outwait(self, error: Exception) -> None:
        """Wait out an outage, then give every worker's lease a fresh start before reaping."""
        since = time.monotonic()
        self._note(f"Redis does not answer ({error}); waiting for it")
        while not self._stopping():
            time.sleep(_RETRY_AFTER)
            self._tend()
            try:
                self._dispatch.connection.ping()
                self._dispatch.states.extend_leases()
                if not self._restore():
                    self._resync()
            except REDIS_OUTAGE:
                continue
            self._note(f"Redis is back after {time.monotonic() - since:.0f} s")
            return

    def hold(self, grace: float) -> None:
        """Let running trials go back to waiting, so that they go on when the study does.

        Workers get `grace` seconds, and ten more for their last checkpoints.
        """
        state, dispatch = self._state, self._dispatch
        deadline = time.monotonic() + grace + 10
        try:
            held: set[tuple[int, int]] = set()
            while time.monotonic() < deadline:
                dispatch.clear_queue(state.trials[number] for number in state.by_state["waiting"])
                for event in dispatch.stream.read(state.cursor, block_ms=100):
                    self._take(event)
                self._ledger.commit()
                running = [state.trials[number] for number in state.by_state["running"]]
                if not running:
                    break
                unheard = [one for one in running if (one.number, one.attempts) not in held]
                dispatch.stop(unheard, StopReason.HOLD, "")
                held |= {(one.number, one.attempts) for one in unheard}
        except REDIS_OUTAGE as error:
            self._note(f"Redis does not answer ({error}): running trials are left as they are")
        self._ledger.commit(sync=True)

    def _restore(self) -> bool:
        """Give Redis all it must know, should it have lost its data; return whether it had."""
        if self._dispatch.published():
            return False
        self._note("Redis has lost its data; it is given again what the ledger holds")
        self._dispatch.take(by_force=True)
        self._resync()
        return True

    def _resync(self) -> None:
        """Make Redis know all that the ledger does: ends, living trials, budgets, kills."""
        self._catch_up()
        state, queued = self._state, self._dispatch.queue.waiting()
        self._dispatch.settle(state.trials, queued)
        living = sorted(
            number
            for trial_state in ("waiting", "running", "paused")
            for number in state.by_state[trial_state]
        )
        records = [state.trials[number] for number in living]
        Signatures(self._dispatch.connection, state.name).restore(state.kinds)
        self._dispatch.send(records, queued=queued)
        self.outbox.clear()
        self.kills[:] = [record for record in records if record.kill_asked]

    def _catch_up(self) -> None:
        """Take in what happened while nobody listened."""
        for event in self._dispatch.stream.read(self._state.cursor, block_ms=None, count=100_000):
            self._take(event)
        self._ledger.commit()

    def _free_running(self) -> None:
        """Take up trials whose workers went down with the last master; nobody failed."""
        for number in self._state.by_state["running"] | self._state.by_state["waiting"]:
            record = self._state.trials[number]
            trial_state = self._dispatch.states.submit(
                number,
                record.until,
                attempt=record.attempts,
                epoch=record.done,
                checkpoint=record.checkpoint,
                failures=record.failures,
            )
            if trial_state[0] == "running":
                self._dispatch.states.requeue(number, trial_state[1], Outcome.DRAIN, max_failures=0)
