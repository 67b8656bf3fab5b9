"""Owns the light process that takes trials off the queue and watches over one warm child.

It never imports torch. It does all of RQ's bookkeeping, renews the trial's lease, hands the
child kills and drains, and gives a trial back when the child dies under it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
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

from scattershot.bus import inquiry, pulse
from scattershot.bus.info import StudyInfo
from scattershot.bus.queue import RUN_TRIAL, TrialQueue, TrialSpec
from scattershot.bus.state import LEASE, Answer, TrialStates
from scattershot.bus.trouble import TROUBLE
from scattershot.errors import StudyFileError
from scattershot.processes import die_with_parent
from scattershot_worker.child import SETTINGS, UNUSABLE, ChildSettings
from scattershot_worker.queued import QueuedJob

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
class _Current:
    """The attempt the child is busy with."""

    spec: TrialSpec
    number: int
    text: str
    signature: str
    info: StudyInfo | None = None
    #: When a stop was asked for; the child gets `kill_grace` seconds, then SIGKILL.
    stop_since: float | None = None
    stop: str = ""
    #: Seconds, as far as this process saw them pass, since the child last said that it gets on.
    idle: float = 0.0
    stalled: bool = False

    @property
    def key(self) -> list[object]:
        return [self.spec.study, self.spec.trial, self.number]


@dataclass
class _Child:
    """The warm process and the line to it."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    served: int = 0
    buffer: bytes = b""

    def tell(self, **message: object) -> None:
        with contextlib.suppress(OSError):  # a dead child is noticed where it is waited for
            self.line.sendall((json.dumps(message) + "\n").encode())

    def hear(self, timeout: float) -> list[dict[str, Any]] | None:
        """Return the messages that came within `timeout` seconds, or None if the child died."""
        # Looked at first: what it said before it died is still read. The line may stay open
        # without it, in processes that it forked.
        dead = self.process.poll() is not None
        if not select.select([self.line], [], [], 0 if dead else timeout)[0]:
            return None if dead else []
        try:
            data = self.line.recv(65536)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(text) for text in lines]

    def kill(self) -> None:
        """End the process at once, and whatever it has started: that may hang as well."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> int:
        """End the process, gently if it lives; return its exit status."""
        self.line.close()
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


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
        self._child: _Child | None = None
        self._successor: _Child | None = None
        self._current: _Current | None = None
        self._parent = os.getppid()
        self._pulse = pulse.Pulse(
            name=settings.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=settings.child.device,
            version=_version(),
            started=time.time(),
        )
        self._pulse_due = 0.0

    # ---- the child

    def _ready_child(self) -> _Child:
        """Return a living child, a new one if there is none."""
        while self._child is None or self._child.process.poll() is not None:
            if self._child is not None:
                self._child.line.close()
            self._child = self._successor or self._spawn()
            self._successor = None
        return self._child

    def _spawn(self) -> _Child:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            **self._settings.environment,
            SETTINGS: self._settings.child.to_json(),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "scattershot_worker.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=environment,
            process_group=0,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        theirs.close()
        return _Child(process, ours)

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

    # ---- a trial from the queue to its end

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run one trial in the child, keeping RQ's books and the trial's lease meanwhile."""
        try:
            execution = self.prepare_execution(job)
            try:
                # reads the job's call for the process's title: a stranger's may not be readable
                self.prepare_job_execution(job, remove_from_intermediate_queue=True)
                job.started_at = now()
                current = self._accept(job)
            except (ValueError, DeserializationError) as error:
                log.warning("job %s refused: %s", job.id, str(error) or "it is not JSON")
                job.ended_at = now()
                self.handle_job_failure(job, queue, exc_string=str(error), execution=execution)
                self.set_state(WorkerStatus.IDLE)
                return
        except TROUBLE as error:  # nobody has claimed it yet: the master finds that it is gone
            log.warning("job %s is left alone, Redis does not answer: %s", job.id, error)
            self.executions.clear()
            self.set_state(WorkerStatus.IDLE)
            return
        child = self._ready_child()
        child.served += 1
        child.tell(
            do="run",
            attempt=current.key,
            spec=current.text,
            number=current.number,
            signature=current.signature,
        )
        self._current = current  # from here on it can be asked to stop
        if self._stop_requested:
            self._ask("drain")
        try:
            outcome, reason = self._attend(child, job, execution)
        finally:
            self._current = None
        self._settle(current, outcome, reason)
        self._close_books(job, queue, execution)
        self.set_state(WorkerStatus.IDLE)
        if current.info and self._child and self._child.served >= current.info.recycle:
            self._recycle_child()

    def _accept(self, job: Job) -> _Current:
        """Return what the job asks for; raise ValueError unless it is a trial."""
        if job.func_name != RUN_TRIAL:
            raise ValueError(f"a worker runs trials only, not {job.func_name}")
        try:
            text, number, signature = job.args
            number = int(number)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a trial: {error}") from None
        return _Current(TrialSpec.from_json(text), number, text, str(signature))

    def _attend(self, child: _Child, job: Job, execution: Execution) -> tuple[str, str]:
        """Wait for the child's word on the trial, beating its lease and enforcing stops."""
        current = self._current
        assert current is not None
        next_tick = (looked := time.monotonic()) + TICK
        while True:
            timeout = max(0.0, min(next_tick - time.monotonic(), 0.25))
            messages = child.hear(timeout)
            if messages is None:
                return self._bury(child, current)
            for message in messages:
                if "began" in message:
                    current.info = StudyInfo(**message["began"])
                    current.idle = 0.0
                elif "progress" in message:
                    current.idle = 0.0
                elif "ready" in message:
                    self._pulse = replace(self._pulse, device=str(message["ready"]))
                elif "outcome" in message:
                    return str(message["outcome"]), str(message["reason"])
            # a longer pause was this process's own, or the whole machine's: the child had it too
            current.idle += min(time.monotonic() - looked, 1.0)
            looked = time.monotonic()
            self._enforce(child, current)
            if looked >= next_tick:
                next_tick = time.monotonic() + TICK
                self._beat(child, job, execution, current)

    def _beat(self, child: _Child, job: Job, execution: Execution, current: _Current) -> None:
        if self._settings.with_parent and os.getppid() != self._parent:
            child.process.kill()
            os._exit(1)  # `scattershot run` was killed; its next start takes the trial up again
        try:
            answer = TrialStates(self._states, current.spec.study).beat(
                current.spec.trial, current.number
            )
            self.maintain_heartbeats(job, execution)
        except TROUBLE as error:
            log.warning("Redis does not answer (%s); trial %d goes on", error, current.spec.trial)
            current.idle = 0.0  # the child may be waiting for Redis as well
            return
        if answer is Answer.KILL:
            self._ask("kill")
        elif answer is Answer.HOLD:
            self._ask("hold")
        elif answer is Answer.FENCED and current.info is not None:
            self._ask("fenced")

    def _ask(self, stop: str) -> None:
        """Ask the child to stop its trial; called from the pub/sub thread as well."""
        current, child = self._current, self._child
        if current is None or child is None or current.stop_since is not None:
            return
        current.stop, current.stop_since = stop, time.monotonic()
        child.tell(do=stop, attempt=current.key)

    def _enforce(self, child: _Child, current: _Current) -> None:
        """End a child that did not heed a stop within the study's grace period, or hangs."""
        grace = current.info.kill_grace if current.info else 30.0
        if current.stop_since is not None and time.monotonic() > current.stop_since + grace:
            log.warning(
                "trial %d did not stop within %.0f s: its process is ended",
                current.spec.trial,
                grace,
            )
            child.kill()
        elif current.info and 0 < current.info.stall < current.idle and not current.stalled:
            current.stalled = True
            log.warning("trial %d hangs, its process is ended; it was here:", current.spec.trial)
            child.process.send_signal(signal.SIGUSR1)
            time.sleep(0.2)
            child.kill()

    def _bury(self, child: _Child, current: _Current) -> tuple[str, str]:
        """Return what a child's death means for its trial, and start the next child at once."""
        status = child.end()
        if status != UNUSABLE:  # else the next one would fare no better: see `heartbeat`
            self._child = None
            self._ready_child()
        if current.stop == "fenced":
            return "fenced", ""
        if current.stop in ("drain", "hold"):
            return current.stop, ""
        if current.stalled and current.info:
            return "crash", f"no progress for {current.info.stall:g} s"
        if status < 0:
            name = signal.Signals(-status).name
            hint = " (out of memory?)" if name == "SIGKILL" and not current.stop else ""
            return "crash", f"its process was ended by {name}{hint}"
        return "crash", f"its process exited with status {status}"

    def _settle(self, current: _Current, outcome: str, reason: str) -> None:
        """Give a trial back that did not come to its end."""
        if outcome == "refused":
            log.info("trial %d left alone: %s", current.spec.trial, reason)
        if outcome not in ("crash", "drain", "hold"):
            return
        limit = current.info.max_failures if current.info else 3
        deadline = time.monotonic() + LEASE
        while True:
            try:
                state = TrialStates(self._states, current.spec.study).requeue(
                    current.spec.trial, current.number, outcome, max_failures=limit, reason=reason
                )
                if state == "waiting" and outcome != "hold":
                    self._trial_queue.put_front(current.spec, current.number + 1)
                break
            except TROUBLE as error:
                if time.monotonic() > deadline:  # the lease runs out: the master takes over
                    log.warning("trial %d is left to its lease: %s", current.spec.trial, error)
                    return
                time.sleep(0.5)
        log.info("trial %d given back (%s): %s", current.spec.trial, reason or outcome, state)

    def _close_books(self, job: Job, queue: Queue, execution: Execution) -> None:
        """Let RQ forget the job; its books decide nothing."""
        job.ended_at = now()
        try:
            self.handle_job_success(job, queue, queue.started_job_registry, execution)
        except Exception as error:  # a twin was quicker, parts of the books are gone, no Redis
            log.debug("RQ's books on job %s cannot be closed: %s", job.id, error)
            self.executions.pop(execution.id, None)
            with contextlib.suppress(*TROUBLE):
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
            except TROUBLE as error:
                log.warning("Redis does not answer (%s); waiting for it", error)
                time.sleep(1)

    def set_state(self, state: str, pipeline: Any = None) -> None:
        """Note what this worker does; only RQ's own commands ever look at it."""
        with contextlib.suppress(*TROUBLE):
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
            with contextlib.suppress(*TROUBLE):
                if pipeline is None:
                    super().heartbeat(timeout)
                pulse.write(self._states, self._pulse)
                if alive := os.environ.get(ALIVE_VARIABLE):
                    Path(alive).touch()

    def handle_payload(self, message: dict[str, Any]) -> None:
        """Take a stop from the master at once; the next beat or report would tell it anyway."""
        payload = parse_payload(message)
        if payload.get("command") == inquiry.COMMAND:
            about = (self.name, Path(self._settings.child.root), str(payload.get("nonce")))
            # a file system that hangs must not keep kills from being heard
            Thread(target=inquiry.reply, args=(self._states, *about), daemon=True).start()
        if payload.get("command") != "scattershot-stop":
            return  # RQ's own commands (kill the horse, stop the job) would bypass the state
        current = self._current
        if current is not None and payload.get("attempt") == current.key:
            self._ask(str(payload.get("stop", "kill")))

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        """Keep listening through an outage; RQ would give up after a timeout."""
        if not isinstance(exc, TROUBLE):
            raise exc
        time.sleep(2)

    def handle_warm_shutdown_request(self) -> None:
        """On SIGTERM or Ctrl-C the running trial goes back to the queue."""
        self._ask("drain")

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
        with contextlib.suppress(*TROUBLE):
            pulse.remove(self._states, self.name)
            super().teardown()  # type: ignore[no-untyped-call]


def _version() -> str:
    from importlib.metadata import version

    return version("scattershot")
