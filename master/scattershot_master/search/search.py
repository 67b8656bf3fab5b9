"""A study's search: the master's loop, from what workers did to what Redis is to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.stream import Event
from scattershot_master.search.controller import Controller
from scattershot_master.search.observer import Observers
from scattershot_master.search.redis_study import RedisStudy
from scattershot_master.search.redis_sync import Loss, RedisSync
from scattershot_master.search.workforce import Workforce
from scattershot_master.state import events
from scattershot_master.state.ledger import Ledger

#: Seconds between looks at leases, workers and the queue.
_HOUSEKEEPING = 1.0
#: Seconds that a turn of the loop waits for more events, so that many are handled together.
_BATCH = 0.004
#: Seconds between tries while Redis does not answer.
_RETRY_AFTER = 0.5
#: Seconds that workers have for the last checkpoints, besides [worker] kill_grace.
_LAST_CHECKPOINTS = 10.0


class Search:
    """Runs one study to its end, or until it is asked to stop.

    Every decision is written to the ledger before it is carried out, and whatever is carried out
    may be done again: a master that was killed anywhere goes on from the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        redis_study: RedisStudy,
        observers: Observers | None = None,
        keep_alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the study's open ledger, its side of the bus, and who follows the search.

        `keep_alive` is called every second: it may start again what has died on this machine.
        """
        self._ledger, self._state = ledger, ledger.state
        self._token = redis_study.token
        self._observers = observers or Observers()
        self._keep_alive = keep_alive
        self._workforce = Workforce()
        self._controller = Controller(ledger, self._workforce, self._observers)
        self._sync = RedisSync(ledger, redis_study)
        self._due = 0.0
        #: Set (by a signal handler, or by the `stop` command) to end the loop cleanly.
        self.stopping = False

    def run(self, *, workers_gone: bool = False) -> bool:
        """Run until the last stage is closed (True) or `stopping` was set (False).

        `workers_gone` says that no worker can be alive in this Redis, so that running trials may
        be taken up again at once.

        Raises:
            ScattershotError: the study cannot go on; nothing is lost.
        """
        self._begin(workers_gone=workers_gone)
        try:
            while not self.stopping:
                try:
                    if self._turn():
                        return True
                except REDIS_OUTAGE as error:
                    self._wait_for_redis(error)
            self._hold()
            return False
        finally:
            self._controller.close()

    def restore(self) -> None:
        """Give Redis all it must know of the study, and leave it at that."""
        self._begin(workers_gone=False)
        self._carry_out()

    def _begin(self, *, workers_gone: bool) -> None:
        while not self.stopping:
            try:
                if self._sync.forget_beyond():
                    self._observers.note(
                        "the ledger ends before what Redis knows: Redis forgets it"
                    )
                if workers_gone:
                    self._catch_up()
                    self._sync.free_running()
                else:
                    self._sync.extend_leases()
                self._resync()
                return
            except REDIS_OUTAGE as error:
                self._wait_for_redis(error)

    # ---- a turn of the loop

    def _turn(self) -> bool:
        """Apply events, decide, write, carry out; return whether the last stage is closed."""
        batch = self._sync.read(block_ms=100)
        if batch:
            time.sleep(_BATCH)
            batch += self._sync.read(block_ms=None, after=batch[-1].id)
        self._apply(batch)
        over = self._controller.plan()
        self._ledger.commit()
        self._carry_out()
        if time.monotonic() >= self._due:
            self._keep_house()
            self._due = time.monotonic() + _HOUSEKEEPING
        workforce = self._workforce
        self._observers.tick(self._state, workforce.workers, rate=workforce.rate())
        return over

    def _apply(self, batch: Iterable[Event]) -> None:
        for event in batch:
            if event.kind == "stop":
                self._ledger.append(events.StopAsked(event.id))
                self.stopping |= event.worker == self._token
            else:
                self._controller.apply(event)

    def _carry_out(self) -> None:
        """Carry out what was decided. After a failure `_resync` does all of it again."""
        controller = self._controller
        self._sync.kill(controller.to_kill)
        controller.to_kill.clear()
        self._sync.send(controller.to_send)
        controller.to_send.clear()

    def _keep_house(self) -> None:
        """Stay the master, and put back what Redis, or a worker, has lost."""
        self._keep_alive()
        for note in self._workforce.update(self._sync.workers()):
            self._observers.note(note)
        loss = self._sync.check()
        if loss is not Loss.NOTHING:
            self._note_loss(loss)
            self._resync()
        self._sync.put_back()

    # ---- when Redis was away

    def _wait_for_redis(self, error: Exception) -> None:
        since = time.monotonic()
        self._observers.note(f"Redis does not answer ({error}); waiting for it")
        while not self.stopping:
            time.sleep(_RETRY_AFTER)
            self._keep_alive()
            try:
                self._note_loss(self._sync.reconnect())
                self._resync()
            except REDIS_OUTAGE:
                continue
            self._observers.note(f"Redis is back after {time.monotonic() - since:.0f} s")
            return

    def _note_loss(self, loss: Loss) -> None:
        if loss is Loss.EVERYTHING:
            self._observers.note("Redis has lost its data; it is given again what the ledger holds")

    def _resync(self) -> None:
        """Make Redis know all that the ledger does."""
        self._catch_up()
        self._controller.to_kill[:] = self._sync.resync()
        self._controller.to_send.clear()

    def _catch_up(self) -> None:
        """Apply all events that were not read yet."""
        self._apply(self._sync.read(block_ms=None, count=100_000))
        self._ledger.commit()

    # ---- the end

    def _hold(self) -> None:
        """Let running trials go back to waiting, so that they go on when the study does."""
        grace = self._state.settings.worker.kill_grace + _LAST_CHECKPOINTS
        deadline = time.monotonic() + grace
        try:
            while time.monotonic() < deadline:
                self._sync.clear_queue()
                self._apply(self._sync.read(block_ms=100))
                self._ledger.commit()
                if not self._sync.hold_running():
                    break
        except REDIS_OUTAGE as error:
            self._observers.note(
                f"Redis does not answer ({error}): running trials are left as they are"
            )
        self._ledger.commit(sync=True)
