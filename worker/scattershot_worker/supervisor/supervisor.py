"""Owns the light process that takes trials off the queue and watches over one warm child.

It never imports torch. It does all of RQ's bookkeeping, renews the leases, hands the child kills
and drains, and gives trials back when the child dies under them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

from redis import Redis
from rq import Queue
from rq.command import parse_payload
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job
from rq.timeouts import BaseDeathPenalty
from rq.utils import now
from rq.worker import Worker
from rq.worker.base import WorkerStatus

from scattershot_common.bus import folder_probe
from scattershot_common.bus import heartbeat as pulse
from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import RUN_TRIAL, TrialQueue
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_state import LEASE
from scattershot_common.errors import StudyFileError
from scattershot_worker.child.main import AUTO_LANES, UNUSABLE, ChildSettings
from scattershot_worker.supervisor.child_process import ChildProcess
from scattershot_worker.supervisor.leased_attempts import LeasedAttempt, LeasedAttempts, charge_of
from scattershot_worker.supervisor.rq_job import QueuedJob

log = logging.getLogger("scattershot.worker")

#: Seconds between signs of life while a trial runs; the lease allows three to be missed.
TICK = 3
#: Names a file to touch with every sign of life, for a container's health check.
ALIVE_VARIABLE = "SCATTERSHOT_ALIVE"


class _NoAlarm(BaseDeathPenalty):
    """RQ's job timeout, switched off: SIGALRM would interrupt the wait for the child."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


@dataclass
class SupervisorSettings:
    """How one worker is set up; `paths` go first on the child's sys.path."""

    name: str
    child: ChildSettings
    #: End when the process that started this one is gone (workers of `scattershot run`).
    with_parent: bool = False
    environment: dict[str, str] = field(default_factory=dict)


class Supervisor(Worker):
    """An RQ worker whose jobs are trials and whose work horse is a warm child."""

    death_penalty_class = _NoAlarm
    #: Seconds between tries, at most, while Redis is away (RQ's default is a minute).
    max_connection_wait_time = 4.0

    def __init__(self, connection: Redis, states: Redis, settings: SupervisorSettings) -> None:
        """Take a bytes connection for RQ and a text connection for the trial states."""
        queue = TrialQueue(connection)
        super().__init__(
            [queue.rq],
            name=settings.name,
            connection=connection,
            serializer=queue.rq.serializer,
            job_class=QueuedJob,
            worker_ttl=20,
            job_monitoring_interval=TICK,
            maintenance_interval=600,
        )
        self._trial_queue = queue
        self._states = states
        self._settings = settings
        self._charges = LeasedAttempts(states, queue)
        self._child: ChildProcess | None = None
        self._successor: ChildProcess | None = None
        self._parent = os.getppid()
        self._pulse = pulse.Heartbeat(
            name=settings.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=settings.child.device,
            version=_version(),
            started=time.time(),
            lanes=settings.child.lanes or AUTO_LANES,
        )
        self._pulse_due = 0.0

    # ---- the child

    def _ready_child(self) -> ChildProcess:
        """Return a living child, a new one if there is none."""
        while self._child is None or self._child.process.poll() is not None:
            if self._child is not None:
                self._child.line.close()
            self._child = self._successor or self._spawn()
            self._successor = None
        return self._child

    def _spawn(self) -> ChildProcess:
        return ChildProcess.spawn(self._settings.child, self._settings.environment)

    def _recycle_child(self) -> None:
        """Replace a child that has served long, so that leaks of a user's code do not add up.

        The successor imports torch while the old one goes on, and takes over once it is ready.
        """
        if self._successor is None:
            self._successor = self._spawn()
            return
        words = self._successor.hear(0.0)  # the first one is that it is ready
        if words is None:
            self._successor.end()
            self._successor = None
        elif words:
            old, self._child, self._successor = self._child, self._successor, None
            if old is not None:
                old.end()

    # ---- a job from the queue to its end

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Have the child run a trial, and keep RQ's books and the leases meanwhile.

        The child may take further trials as lanes beside it; the job lasts until it is free.
        """
        try:
            execution = self.prepare_execution(job)
            try:
                # reads the job's call for the process's title: a stranger's may not be readable
                self.prepare_job_execution(job, remove_from_intermediate_queue=True)
                job.started_at = now()
                first = self._accept(job)
            except (ValueError, DeserializationError) as error:
                log.warning("job %s refused: %s", job.id, str(error) or "it is not JSON")
                job.ended_at = now()
                self.handle_job_failure(job, queue, exc_string=str(error), execution=execution)
                self.set_state(WorkerStatus.IDLE)
                return
        except REDIS_OUTAGE as error:  # nobody has claimed it yet: the master finds that it is gone
            log.warning("job %s is left alone, Redis does not answer: %s", job.id, error)
            self.executions.clear()
            self.set_state(WorkerStatus.IDLE)
            return
        child = self._ready_child()
        child.served += 1
        child.tell(
            do="run",
            attempt=first.key,
            spec=first.text,
            number=first.number,
            signature=first.signature,
        )
        self._charges.open(first)  # from here on it can be asked to stop
        if self._stop_requested:
            self._ask(StopReason.DRAIN)
        try:
            self._attend(child, job, execution)
        finally:
            self._charges.close()
        self._close_books(job, queue, execution)
        self.set_state(WorkerStatus.IDLE)
        info = self._charges.info
        if info and self._child and self._child.served >= info.recycle:
            self._recycle_child()

    def _accept(self, job: Job) -> LeasedAttempt:
        """Return what the job asks for; raise ValueError unless it is a trial."""
        if job.func_name != RUN_TRIAL:
            raise ValueError(f"a worker runs trials only, not {job.func_name}")
        try:
            text, number, signature = job.args
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a trial: {error}") from None
        return LeasedAttempt.read(text, number, signature)

    def _attend(self, child: ChildProcess, job: Job, execution: Execution) -> None:
        """Listen to the child until it is free or dead, beating leases and enforcing stops."""
        next_tick = (looked := time.monotonic()) + TICK
        while True:
            timeout = max(0.0, min(next_tick - time.monotonic(), 0.25))
            messages = child.hear(timeout)
            if messages is None:
                self._bury(child)
                return
            for message in messages:
                if self._heed(child, message):
                    return
            # a longer pause was this process's own, or the whole machine's: the child had it too
            self._charges.idle += min(time.monotonic() - looked, 1.0)
            looked = time.monotonic()
            self._enforce(child)
            if looked >= next_tick:
                next_tick = time.monotonic() + TICK
                self._beat(child, job, execution)

    def _heed(self, child: ChildProcess, message: dict[str, Any]) -> bool:
        """Take in a word of the child; return whether it is free again."""
        charges = self._charges
        if "began" in message:
            charges.info = StudyInfo(**message["began"])
            charges.idle = 0.0
        elif "took" in message:
            child.served += 1
            charges.take(lane := charge_of(message))
            if self._stop_requested:
                self._ask(StopReason.DRAIN, lane)
        elif "progress" in message:
            charges.idle = 0.0
        elif "ready" in message:
            self._pulse = replace(self._pulse, device=str(message["ready"]))
        elif "lanes" in message:
            self._pulse = replace(self._pulse, lanes=int(message["lanes"]))
            self._pulse_due = 0.0
        elif "outcome" in message:
            charge = charges.get(message["attempt"])
            if charge is not None:
                charges.settle(charge, Outcome(message["outcome"]), str(message["reason"]))
        return "free" in message

    def _beat(self, child: ChildProcess, job: Job, execution: Execution) -> None:
        if self._settings.with_parent and os.getppid() != self._parent:
            child.process.kill()
            os._exit(1)  # `scattershot run` was killed; its next start takes the trial up again
        try:
            stops = self._charges.renew()
            self.maintain_heartbeats(job, execution)
        except REDIS_OUTAGE as error:
            log.warning("Redis does not answer (%s); training goes on", error)
            self._charges.idle = 0.0  # the child may be waiting for Redis as well
            return
        for charge, stop in stops:
            self._ask(stop, charge)

    def _ask(self, stop: StopReason, only: LeasedAttempt | None = None) -> None:
        """Ask the child to stop one attempt, or all; called from the pub/sub thread as well."""
        child = self._child
        for charge in [only] if only else self._charges:
            if child is not None and charge.stop_since is None:
                charge.stop, charge.stop_since = stop, time.monotonic()
                child.tell(do=stop, attempt=charge.key)

    def _enforce(self, child: ChildProcess) -> None:
        """End a child that did not heed a stop within the study's grace period, or hangs."""
        charges, late = self._charges, time.monotonic() - self._charges.grace
        if charges.deaf or charges.hung:
            return
        for charge in charges:
            if charge.stop_since is not None and charge.stop_since < late:
                charges.deaf = True
                log.warning(
                    "trial %d did not stop within %.0f s: its process is ended",
                    charge.spec.trial,
                    charges.grace,
                )
                child.kill()
                return
        if charges.stalls:
            charges.hung = True
            numbers = ", ".join(str(charge.spec.trial) for charge in charges)
            log.warning("trial %s hangs, its process is ended; it was here:", numbers)
            child.process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
            child.kill()

    def _bury(self, child: ChildProcess) -> None:
        """Give back what a dead child leaves, and start the next one at once."""
        status = child.end()
        if status != UNUSABLE:  # else the next one would fare no better: see `heartbeat`
            self._child = None
            self._ready_child()
        self._charges.bury(status)

    def _close_books(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Let RQ forget the job; its books decide nothing."""
        job.ended_at = now()
        try:
            self.handle_job_success(job, queue, queue.started_job_registry, execution)
        except Exception as error:  # a twin was quicker, parts of the books are gone, no Redis
            log.debug("RQ's books on job %s cannot be closed: %s", job.id, error)
            self.executions.pop(execution.id, None)
            with contextlib.suppress(*REDIS_OUTAGE):
                self._trial_queue.remove([job.id])

    # ---- RQ's hooks

    def check_for_suspension(self, burst: bool) -> None:
        """Never pause for `rq suspend`: it is the studies' masters who decide."""

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a trial, through whatever befalls Redis meanwhile."""
        while True:
            try:
                return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
            except REDIS_OUTAGE as error:
                log.warning("Redis does not answer (%s); waiting for it", error)
                time.sleep(1)

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """Note what this worker does; only RQ's own commands ever look at it."""
        with contextlib.suppress(*REDIS_OUTAGE):
            super().set_state(state, pipeline)

    def set_shutdown_requested_date(self) -> None:
        """Write nothing: this runs in a signal handler, in the middle of anything."""

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return RQ's own lease in seconds: its default of over a minute is too long."""
        return int(LEASE) + TICK

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Tell RQ and the master that this worker lives, no more often than needed.

        RQ beats three times per job with three round trips each; a short trial would feel it.
        """
        if self._child is not None and self._child.process.poll() == UNUSABLE:
            raise SystemExit(StudyFileError.exit_code)  # the child has said why
        due = time.monotonic() >= self._pulse_due
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
        if due:
            self._pulse_due = time.monotonic() + TICK
            if self._settings.with_parent and os.getppid() != self._parent:
                raise SystemExit(1)
            with contextlib.suppress(*REDIS_OUTAGE):
                if pipeline is None:
                    super().heartbeat(timeout)
                pulse.write(self._states, self._pulse)
                if alive := os.environ.get(ALIVE_VARIABLE):
                    Path(alive).touch()

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Take a stop from the master at once; the next beat or report would tell it anyway."""
        payload = parse_payload(message)
        if payload.get("command") == folder_probe.COMMAND:
            about = (self.name, Path(self._settings.child.root), str(payload.get("nonce")))
            # a file system that hangs must not keep kills from being heard
            Thread(target=folder_probe.reply, args=(self._states, *about), daemon=True).start()
        if payload.get("command") != "scattershot-stop":
            return  # RQ's own commands (kill the horse, stop the job) would bypass the state
        charge, stop = self._charges.get(payload.get("attempt")), payload.get("stop")
        if charge is not None and stop in [*StopReason]:
            self._ask(StopReason(str(stop)), charge)

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        """Keep listening through an outage; RQ would give up after a timeout."""
        if not isinstance(exc, REDIS_OUTAGE):
            raise exc
        time.sleep(2)

    def handle_warm_shutdown_request(self) -> None:
        """On SIGTERM or Ctrl-C the running trial goes back to the queue."""
        self._ask(StopReason.DRAIN)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """On a second signal: end at once; the lease gives the trial back."""
        if self._child is not None:
            self._child.process.kill()
        raise SystemExit(1)

    def run_maintenance_tasks(self) -> None:
        """Leave RQ's registries alone: only the master puts lost trials back."""
        self.last_cleaned_at: Any = now()

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register, and let the child import torch while the first trial is still on its way."""
        self._ready_child()
        super().bootstrap(*args, **kwargs)

    def teardown(self) -> None:
        """Leave: end the child, and say goodbye if Redis still listens."""
        for child in filter(None, (self._child, self._successor)):
            child.end()
        self._child = self._successor = None
        with contextlib.suppress(*REDIS_OUTAGE):
            pulse.remove(self._states, self.name)
            super().teardown()  # type: ignore[no-untyped-call]


def _version() -> str:
    from importlib.metadata import version

    return version("scattershot")
