"""The RQ worker: all of RQ's hooks and bookkeeping, and nothing of what a trial is.

RQ takes jobs off the queue and keeps its registries; what is done with an attempt is the
supervisor's, called through `AttemptHandler`.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NoReturn, Protocol

from rq import Queue
from rq.command import parse_payload
from rq.exceptions import DeserializationError
from rq.executions import Execution
from rq.job import Job
from rq.timeouts import BaseDeathPenalty
from rq.utils import now
from rq.worker import Worker
from rq.worker.base import WorkerStatus

from scattershot_common.bus.keys import QUEUE
from scattershot_common.bus.outage import REDIS_OUTAGE
from scattershot_common.bus.queue import BOOKS, TrialQueue, calls_trial
from scattershot_common.bus.trial_spec import QueuedAttempt
from scattershot_common.bus.trial_state import LEASE
from scattershot_common.machine import WARNINGS, on_stop

log = logging.getLogger("scattershot.worker")

#: Seconds between heartbeats, and between renewals of a lease, which allows three to be missed.
HEARTBEAT = 3


class AttemptHandler(Protocol):
    """What an `RqWorker` calls for everything but RQ's bookkeeping."""

    def open(self) -> None:
        """Get ready: jobs are about to be taken."""

    def run(self, attempt: QueuedAttempt, keep_job: Callable[[], None]) -> None:
        """Run an attempt to its end; call `keep_job` with every heartbeat meanwhile."""

    def idle(self) -> None:
        """Do what is due between two jobs."""

    def heartbeat_due(self) -> bool:
        """Return whether to write a heartbeat; raises SystemExit where the worker is to end."""

    def write_heartbeat(self) -> None:
        """Write a heartbeat; raises one of `REDIS_OUTAGE`."""

    def command(self, payload: Mapping[str, Any]) -> None:
        """Obey a message that was sent to this worker. Called in the pub/sub thread."""

    def drain(self) -> None:
        """Stop all attempts: the worker is to end. Called in a signal handler."""

    def kill(self) -> None:
        """End at once."""

    def close(self) -> None:
        """Clean up: the worker ends. Raises one of `REDIS_OUTAGE`."""


class _TrialJob(Job):
    """A job of which only the call and its arguments are taken from Redis.

    RQ lets a job ask for more: callbacks, which are imported by name, webhooks, which the worker
    would call from inside its network, retries, repeats, a queue to be put back on. Whoever can
    write to Redis can ask for it; none of it is ever read here.
    """

    def restore(self, raw_data: Any) -> None:
        """Take the job's call, and our own settings in place of the job's."""
        super().restore({key: raw_data[key] for key in (b"data",) if key in raw_data})
        self.origin = QUEUE
        self.timeout, self.result_ttl = BOOKS["timeout"], BOOKS["result_ttl"]
        self.failure_ttl = BOOKS["failure_ttl"]

    @property
    def func(self) -> NoReturn:
        """Never: the call's name is looked at, and nothing is imported by it."""
        raise ValueError("a worker imports nothing that a job names")


class _NoAlarm(BaseDeathPenalty):
    """RQ's job timeout, switched off: SIGALRM would interrupt the wait for the child."""

    def setup_death_penalty(self) -> None:
        pass

    def cancel_death_penalty(self) -> None:
        pass


class RqWorker(Worker):
    """An RQ worker whose jobs are attempts at trials and whose work horse is a warm child."""

    death_penalty_class = _NoAlarm
    #: Seconds between tries, at most, while Redis is away (RQ's default is a minute).
    max_connection_wait_time = 4.0

    def __init__(self, queue: TrialQueue, name: str, handler: AttemptHandler) -> None:
        super().__init__(
            [queue.rq],
            name=name,
            connection=queue.rq.connection,
            serializer=queue.rq.serializer,
            job_class=_TrialJob,
            worker_ttl=20,
            job_monitoring_interval=HEARTBEAT,
            maintenance_interval=600,
        )
        self._trial_queue = queue
        self._handler = handler

    # ---- a job from the queue to its end

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Have the handler run a job's attempt, and keep RQ's books on it."""
        try:
            execution = self.prepare_execution(job)
            try:
                # reads the job's call for the process's title: a stranger's may not be readable
                self.prepare_job_execution(job, remove_from_intermediate_queue=True)
                job.started_at = now()
                attempt = _attempt_of(job)
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
        self._handler.run(attempt, lambda: self.maintain_heartbeats(job, execution))
        self._close_books(job, queue, execution)
        self.set_state(WorkerStatus.IDLE)
        self._handler.idle()

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

    def bootstrap(self, *args: Any, **kwargs: Any) -> None:
        """Register; the handler gets ready while the first job is still on its way."""
        self._handler.open()
        super().bootstrap(*args, **kwargs)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """Wait for a job, through outages of Redis."""
        while True:
            try:
                return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
            except REDIS_OUTAGE as error:
                log.warning("Redis does not answer (%s); waiting for it", error)
                time.sleep(1)

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """Tell RQ and the master that this worker lives, no more often than needed.

        RQ calls it three times per job with three round trips each; a short trial would feel it.
        """
        due = self._handler.heartbeat_due()
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
        if due:
            with contextlib.suppress(*REDIS_OUTAGE):
                if pipeline is None:
                    super().heartbeat(timeout)
                self._handler.write_heartbeat()

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """Return RQ's own lease in seconds: its default of over a minute is too long."""
        return int(LEASE) + HEARTBEAT

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """Note what this worker does; only RQ's own commands ever look at it."""
        with contextlib.suppress(*REDIS_OUTAGE):
            super().set_state(state, pipeline)

    def check_for_suspension(self, burst: bool) -> None:
        """Never pause for `rq suspend`: it is the studies' masters who decide."""

    def run_maintenance_tasks(self) -> None:
        """Leave RQ's registries alone: only the master puts lost trials back."""
        self.last_cleaned_at: Any = now()

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Pass a message on; RQ's own commands (kill the horse, …) would bypass the state."""
        self._handler.command(parse_payload(message))

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        """Keep listening through an outage; RQ would give up after a timeout."""
        if not isinstance(exc, REDIS_OUTAGE):
            raise exc
        time.sleep(2)

    def _install_signal_handlers(self) -> None:
        """Stop on `WARNINGS` as well; only Ctrl-C and SIGTERM can be a second request."""

        def stop(signum: int, frame: FrameType | None) -> None:
            warned = signum in WARNINGS
            if self._shutdown_requested_date is None:
                try:
                    self.request_stop(signum, frame)  # type: ignore[no-untyped-call]
                finally:
                    next_time(stop if warned else self.request_force_stop)
            elif not warned:
                next_time(self.request_force_stop)

        def next_time(handler: Callable[[int, FrameType | None], None]) -> None:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, handler)

        on_stop(stop)

    def set_shutdown_requested_date(self) -> None:
        """Write nothing: this runs in a signal handler, in the middle of anything."""

    def handle_warm_shutdown_request(self) -> None:
        """On SIGTERM or Ctrl-C the running trials go back to the queue."""
        self._handler.drain()

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """On a second signal: end at once; the leases give the trials back."""
        self._handler.kill()
        raise SystemExit(1)

    def teardown(self) -> None:
        """Leave, and sign off if Redis still answers."""
        with contextlib.suppress(*REDIS_OUTAGE):
            self._handler.close()
            super().teardown()  # type: ignore[no-untyped-call]


def _attempt_of(job: Job) -> QueuedAttempt:
    """Return what the job asks for; raise ValueError unless it is an attempt at a trial."""
    if not calls_trial(job.func_name):
        raise ValueError(f"a worker runs trials only, not {job.func_name}")
    return QueuedAttempt.read(job.args)
