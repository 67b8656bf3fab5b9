"""The light process that takes trials off the queue and watches over one warm child.

It never imports torch. It renews the leases, passes kills and drains on to the child, ends a child
that hangs, and gives trials back when the child dies under them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

from redis import Redis

from scattershot_common.bus import workers
from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.queue import LOOK, STOP, TrialQueue
from scattershot_common.bus.trial_spec import QueuedAttempt
from scattershot_common.errors import StudyFileError
from scattershot_worker import child_messages as messages
from scattershot_worker.child_settings import AUTO_LANES, ChildSettings
from scattershot_worker.supervisor.child_process import ChildProcess, WarmChild
from scattershot_worker.supervisor.descendants import adopt_orphans
from scattershot_worker.supervisor.leased_attempts import LeasedAttempt, LeasedAttempts
from scattershot_worker.supervisor.rq_worker import HEARTBEAT, RqWorker

log = logging.getLogger("scattershot.worker")

#: Names a file to touch with every heartbeat, for a container's health check.
ALIVE_VARIABLE = "SCATTERSHOT_ALIVE"


@dataclass
class SupervisorSettings:
    """How one worker is set up; `environment` is for the child, besides this process's own."""

    name: str
    child: ChildSettings
    #: End when the process that started this one is gone (workers of `scattershot run`).
    with_parent: bool = False
    environment: dict[str, str] = field(default_factory=dict)


class Supervisor:
    """One worker: an `RqWorker` takes the attempts, a `WarmChild` trains them.

    Implements `AttemptHandler`.
    """

    def __init__(self, connection: Redis, states: Redis, settings: SupervisorSettings) -> None:
        """Take a bytes connection for RQ and a text connection for the trial states."""
        queue = TrialQueue(connection)
        self._worker = RqWorker(queue, settings.name, self)
        self._states = states
        self._settings = settings
        self._child = WarmChild(settings.child, settings.environment)
        self._attempts = LeasedAttempts(states, queue)
        self._parent = os.getppid()
        self._draining = False
        self._heartbeat = workers.Heartbeat(
            name=settings.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=settings.child.device,
            version=version("scattershot"),
            started=time.time(),
            lanes=settings.child.lanes or AUTO_LANES,
        )
        self._heartbeat_due = 0.0

    def work(self) -> None:
        """Run attempts until the process is told to stop."""
        adopt_orphans()
        self._worker.work(logging_level=None)

    def open(self) -> None:
        """Let the child import torch while the first trial is still on its way."""
        self._child.ready()

    def close(self) -> None:
        """End the child, and sign off."""
        self._child.end()
        workers.remove_heartbeat(self._states, self._settings.name)

    # ---- an attempt from the queue to its end

    def run(self, attempt: QueuedAttempt, keep_job: Callable[[], None]) -> None:
        """Have the child run an attempt, and keep its lease meanwhile.

        The child may claim further attempts as lanes beside it; this lasts until it is free.
        """
        child = self._child.ready()
        child.served += 1
        child.send(messages.Run(attempt))
        self._attempts.open(attempt)  # from here on it can be asked to stop
        if self._draining:
            self._ask(StopReason.DRAIN)
        try:
            self._attend(child, keep_job)
        finally:
            self._attempts.close()

    def idle(self) -> None:
        """Replace a child that has served long."""
        self._child.reap()
        info, child = self._attempts.info, self._child.current
        if info and child and child.served >= info.recycle:
            self._child.recycle()

    def _attend(self, child: ChildProcess, keep_job: Callable[[], None]) -> None:
        """Read the child's messages until it is free or dead; renew leases and enforce stops."""
        next_renewal = (looked := time.monotonic()) + HEARTBEAT
        while True:
            timeout = max(0.0, min(next_renewal - time.monotonic(), 0.25))
            received = child.receive(timeout)
            if received is None:
                # the next child starts at once
                self._attempts.settle_dead(self._child.replace())
                return
            for message in received:
                self._take(child, message)
                if isinstance(message, messages.Free):
                    if message.leaves:
                        self._child.replace()
                    return
            # a longer pause was this process's own, or the whole machine's: the child had it too
            self._attempts.idle += min(time.monotonic() - looked, 1.0)
            looked = time.monotonic()
            self._enforce(child)
            if looked >= next_renewal:
                next_renewal = time.monotonic() + HEARTBEAT
                self._renew(child, keep_job)

    def _take(self, child: ChildProcess, message: messages.Message) -> None:
        """Note what the child says."""
        attempts = self._attempts
        match message:
            case messages.Began(info):
                attempts.info, attempts.idle = info, 0.0
            case messages.Claimed(attempt):
                child.served += 1
                lane = attempts.add(attempt)
                if self._draining:
                    self._ask(StopReason.DRAIN, lane)
            case messages.Progress():
                attempts.idle = 0.0
            case messages.Ready(device):
                self._heartbeat = replace(self._heartbeat, device=device)
            case messages.Lanes(count):
                self._heartbeat = replace(self._heartbeat, lanes=count)
                self._heartbeat_due = 0.0
            case messages.Ended(key, outcome, reason):
                leased = attempts.get(key)
                if leased is not None:
                    attempts.settle(leased, outcome, reason)

    def _renew(self, child: ChildProcess, keep_job: Callable[[], None]) -> None:
        self._child.reap()
        if self._orphaned():
            self._child.kill()
            os._exit(1)  # `scattershot run` was killed; its next start takes the trial up again
        try:
            stops = self._attempts.renew()
            keep_job()
        except REDIS_OUTAGE as error:
            log.warning("Redis does not answer (%s); training goes on", error)
            self._attempts.idle = 0.0  # the child may be waiting for Redis as well
            return
        for leased, stop in stops:
            self._ask(stop, leased)

    def _ask(self, stop: StopReason, only: LeasedAttempt | None = None) -> None:
        """Ask the child to stop one attempt, or all; called from the pub/sub thread as well."""
        child = self._child.current
        for leased in [only] if only else self._attempts:
            if child is not None and leased.stop_since is None:
                leased.stop, leased.stop_since = stop, time.monotonic()
                child.send(messages.Stop(leased.attempt.key, stop))

    def _enforce(self, child: ChildProcess) -> None:
        """End a child that did not stop within the study's grace period, or hangs."""
        attempts = self._attempts
        if attempts.ignored_stop or attempts.hung:
            return
        if (late := attempts.overdue()) is not None:
            attempts.ignored_stop = True
            log.warning(
                "trial %d did not stop within %.0f s: its process is ended",
                late.trial,
                attempts.grace,
            )
            child.kill()
        elif attempts.stalled:
            attempts.hung = True
            trials = ", ".join(str(leased.trial) for leased in attempts)
            log.warning("trial %s hangs, its process is ended; it was here:", trials)
            child.process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
            child.kill()

    # ---- from outside

    def heartbeat_due(self) -> bool:
        """Return whether it is time for the next one; raises SystemExit if the worker must end."""
        if self._child.unusable:
            raise SystemExit(StudyFileError.exit_code)  # the child has said why
        if time.monotonic() < self._heartbeat_due:
            return False
        self._heartbeat_due = time.monotonic() + HEARTBEAT
        if self._orphaned():
            raise SystemExit(1)
        return True

    def write_heartbeat(self) -> None:
        """Tell the master, and a container's health check, that this worker lives."""
        workers.write_heartbeat(self._states, self._heartbeat)
        if alive := os.environ.get(ALIVE_VARIABLE):
            Path(alive).touch()

    def command(self, payload: Mapping[str, Any]) -> None:
        """Stop an attempt at once (its next heartbeat would), or look for a folder."""
        command = payload.get("command")
        if command == LOOK:
            root, nonce = Path(self._settings.child.root), str(payload.get("nonce"))
            arguments = (self._states, self._settings.name, root, nonce)
            # a file system that hangs must not keep kills from being read
            Thread(target=workers.look_for_folder, args=arguments, daemon=True).start()
        elif command == STOP:
            leased = self._attempts.get(payload.get("attempt"))
            with contextlib.suppress(ValueError):  # no reason of ours
                if leased is not None:
                    self._ask(StopReason(payload.get("stop", StopReason.KILL)), leased)

    def drain(self) -> None:
        """Give all attempts back, and take no more."""
        self._draining = True
        self._ask(StopReason.DRAIN)

    def kill(self) -> None:
        """End the child at once."""
        self._child.kill()

    def _orphaned(self) -> bool:
        return self._settings.with_parent and os.getppid() != self._parent
