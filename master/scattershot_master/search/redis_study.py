"""A study in Redis, for its master: the claim on it, sending, killing and putting back trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from redis import Redis

from scattershot_common.bus import study_info
from scattershot_common.bus.connection import connect
from scattershot_common.bus.keys import Keys, job_id, trial_of
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialQueue, send_stop
from scattershot_common.bus.stream import EventStream, position
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.bus.trial_state import TrialStates, settlement
from scattershot_common.bus.workers import Heartbeat, living_workers
from scattershot_common.errors import ScattershotError
from scattershot_master.state.study_state import TrialRecord

#: Seconds the master's claim on a study lasts without being renewed.
_MASTER_LEASE_MS = 15_000
#: Seconds after which the queue is searched for a trial that should be on it.
_LOST_AFTER = 10.0
#: Trials sent in one round trip: Redis serves no other client meanwhile.
_BATCH = 500


class RedisStudy:
    """One study's side of the bus. Every operation may be repeated without harm."""

    def __init__(self, url: str, study: StudyInfo) -> None:
        self.info = study
        self.connection = connect(url)
        self.states = TrialStates(self.connection, study.name)
        self.stream = EventStream(self.connection, study.name)
        self.queue = TrialQueue(connect(url, decode=False))
        self._keys = Keys(study.name)
        #: What this master is known by; a `stop` names the one that it is meant for.
        self.token = f"{study.uid}:{time.time_ns()}"
        self._sent: dict[int, float] = {}
        self._run = ""

    # ---- the study

    def take(self, *, by_force: bool = False) -> None:
        """Become the study's master and publish it.

        Raises:
            ScattershotError: another master runs it, or another study of this name is here.
        """
        if by_force or not self.connection.exists(self._keys.master):
            # first, so that another study of this name keeps its master
            study_info.publish(self.connection, self.info)
            if self.connection.set(
                self._keys.master, self.token, px=_MASTER_LEASE_MS, nx=not by_force
            ):
                return
        raise ScattershotError(
            f"another master runs the study {self.info.name!r} in this Redis; stop it first, "
            "or take over with --take-over"
        )

    def wait_for_claim(self, note: Callable[[str], object] = lambda text: None) -> None:
        """Wait until the claim of a master that was killed has run out, at most its 15 s.

        Returns at once where there is none, and soon where its holder lives: it renews its claim.
        """
        left: Any = self.connection.pttl(self._keys.master)
        if left > 0:
            note(f"the last master's claim on the study runs out in {left / 1000:.0f} s")
        while left > 0:
            time.sleep(min(left / 1000 + 0.01, 0.5))
            before, left = left, self.connection.pttl(self._keys.master)
            if left > before:
                return

    def renew(self) -> None:
        """Stay the master.

        Raises:
            ScattershotError: another one has taken over.
        """
        holder = self.connection.get(self._keys.master)
        if holder not in (None, self.token):
            raise ScattershotError("another master has taken over this study; this one stops")
        self.connection.set(self._keys.master, self.token, px=_MASTER_LEASE_MS)

    def release(self) -> None:
        """Stop being the master."""
        if self.connection.get(self._keys.master) == self.token:
            self.connection.delete(self._keys.master)

    def restarted(self) -> bool:
        """Return whether another server process answers than when this was asked last.

        A crash costs it its last second, and may be so short that a client only tries again.
        """
        run = str(self.connection.info("server").get("run_id", ""))
        before, self._run = self._run, run
        return before not in ("", run)

    def published(self) -> bool:
        """Return whether Redis still knows the study (it may have lost its data)."""
        return bool(self.connection.hexists(self._keys.info, "uid"))

    def trim(self, cursor: str) -> None:
        """Forget the events up to `cursor`: they stand in the ledger."""
        self.connection.hset(self._keys.info, "trimmed", cursor)
        self.stream.trim(cursor)

    def forget_beyond(self, cursor: str) -> bool:
        """Forget all trials if the events after `cursor` are gone; return whether they were.

        A ledger that was cut, or comes from a backup, ends before what Redis knows of the trials,
        and the stream no longer tells what lies between.
        """
        trimmed = str(self.connection.hget(self._keys.info, "trimmed") or "")
        if position(cursor) >= position(trimmed):
            return False
        self._forget_trials()
        return True

    def forget_namesake(self) -> bool:
        """Forget a study of this name that has another uid; return whether there was one.

        For a ledger that was recovered: it goes on under a new uid, so that nothing which was on
        its way to or from the old one can be taken for its own.

        Raises:
            ScattershotError: a master runs it.
        """
        if self.connection.hget(self._keys.info, "uid") in (None, self.info.uid):
            return False
        if self.connection.exists(self._keys.master):
            raise ScattershotError(
                f"a master runs the study {self.info.name!r} in this Redis; stop it first"
            )
        self._forget_trials()
        self.connection.delete(self._keys.info, self._keys.kinds, self._keys.packs)
        return True

    def _forget_trials(self) -> None:
        trials = self.connection.scan_iter(f"{self._keys.prefix}*", count=1000)
        self.connection.delete(self._keys.running, self._keys.events, *trials)
        self.connection.hdel(self._keys.info, "trimmed")

    def workers(self) -> list[Heartbeat]:
        """Return the living workers."""
        return living_workers(self.connection)

    # ---- trials

    def send(self, trials: Sequence[TrialRecord], *, queued: Iterable[str] = ()) -> None:
        """Make trials known at their present budget, and put those that wait on the queue.

        `queued` are job ids known to be on it already.
        """
        trials = [*{trial.number: trial for trial in trials}.values()]  # RQ puts no job twice
        if not trials:
            return
        known = set(queued)
        ready = self._submit(trials[:_BATCH], known)
        if len(trials) > _BATCH:
            # this process makes up the next ones while Redis takes in the last
            with ThreadPoolExecutor(1) as thread:
                for first in range(_BATCH, len(trials), _BATCH):
                    sending = thread.submit(self.queue.put, ready)
                    ready = self._submit(trials[first : first + _BATCH], known)
                    sending.result()
        self.queue.put(ready)

    def _submit(
        self, trials: Sequence[TrialRecord], known: set[str]
    ) -> list[tuple[TrialSpec, int]]:
        """Make trials known; return those, with their attempt, that must be put on the queue."""
        answers = self.states.submit_all(
            [
                (
                    trial.number,
                    trial.until,
                    trial.attempts,
                    trial.done,
                    trial.checkpoint,
                    trial.failures,
                )
                for trial in trials
            ]
        )
        attempts = []
        for trial, (state, last) in zip(trials, answers, strict=True):
            if state == "waiting" and not (known and self._job(trial.number, last + 1) in known):
                attempts.append((self._spec(trial), last + 1))
                self._sent[trial.number] = time.monotonic()
        return attempts

    def stop(self, trials: Sequence[TrialRecord], stop: StopReason, reason: str | None) -> None:
        """Ask for trials' end: the flag in Redis is what counts, the message makes it quick.

        `reason` None takes each trial's own `kill_asked`.
        """
        for trial in trials:
            stop_trial(
                self.states, trial.number, stop, trial.kill_asked if reason is None else reason
            )

    def settle(self, trials: Mapping[int, TrialRecord], queued: Iterable[str]) -> None:
        """End trials in Redis that have ended in the ledger: Redis may have lost their end.

        `queued` are the job ids on the queue.
        """
        numbers = {*self.states.running(), *(trial_of(job, self.info.name) for job in queued)}
        active = [trials[n] for n in numbers if n is not None and n in trials]
        if steps := [settlement(trial.number, trial.state) for trial in active if not trial.living]:
            self.states.run(steps)

    def reap(self, trials: dict[int, TrialRecord], max_failures: int) -> list[int]:
        """Put trials back whose lease has run out; return their numbers."""
        lost = []
        for number, attempt in self.states.expired():
            record = trials[number]
            reason = f"its worker {record.worker or '?'} was lost"
            state = self.states.requeue(
                number, attempt, Outcome.LOST, max_failures=max_failures, reason=reason
            )
            if state != Outcome.FENCED:
                lost.append(number)
            if state == "waiting":
                self.queue.put_front(self._spec(record), attempt + 1)
                self.queue.remove([self._job(number, attempt)])
                self._sent[number] = time.monotonic()
        return lost

    def find_lost(self, trials: Iterable[TrialRecord]) -> None:
        """Put trials back on the queue that wait according to Redis but are not on it.

        A worker that dies between taking a job and claiming its trial leaves no lease behind. One
        that lives, its child still importing torch, has the job among RQ's started ones.
        """
        now = time.monotonic()
        overdue = [
            trial for trial in trials if now - self._sent.get(trial.number, 0.0) > _LOST_AFTER
        ]
        if not overdue:
            return
        queued = {*self.queue.waiting(), *self.queue.taken()}
        missing = [
            trial
            for trial in overdue
            if queued.isdisjoint(self._job(trial.number, trial.attempts + more) for more in (0, 1))
        ]
        self.send(missing, queued=queued)
        for trial in overdue:
            self._sent[trial.number] = now

    def clear_queue(self, waiting: Iterable[TrialRecord]) -> None:
        """Take this study's trials off the queue: no master is left to read their events."""
        ids = {self._job(trial.number, trial.attempts + 1) for trial in waiting}
        self.queue.remove(ids)

    def _job(self, trial: int, attempt: int) -> str:
        return job_id(self.info.name, trial, attempt)

    def _spec(self, record: TrialRecord) -> TrialSpec:
        return TrialSpec(
            self.info.name,
            self.info.uid,
            record.number,
            record.stage,
            record.params,
            record.seed,
            record.epochs,
        )


def depose_master(connection: Redis, study: str) -> None:
    """Take a study from its master, if it has one: it notices within seconds, and stops."""
    connection.set(Keys(study).master, f"taken over:{time.time_ns()}", px=_MASTER_LEASE_MS, xx=True)


def stop_trial(states: TrialStates, trial: int, stop: StopReason, reason: str) -> str:
    """Ask for one trial's end; return the state it was in ("gone" if Redis knows no such trial)."""
    state, worker, attempt = states.signal(trial, stop, reason)
    if state == "running":
        send_stop(states.connection, worker, (states.keys.study, trial, attempt), stop)
    return state
