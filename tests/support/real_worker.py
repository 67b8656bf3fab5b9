"""A worker that runs as processes of its own, and a study for it as its master sees it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from itertools import count, cycle
from pathlib import Path
from typing import Any

import psutil

from scattershot_common.bus.connection import URL_VARIABLE, connect
from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.queue import TrialQueue, send_stop
from scattershot_common.bus.stream import Event, EventStream
from scattershot_common.bus.study_info import StudyInfo, publish
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.bus.trial_state import TrialStates
from scattershot_common.bus.workers import living_workers
from scattershot_common.machine import die_with_parent
from support.waiting import eventually

#: The module in which a worker finds its tasks.
MODULE = "their_tasks"


class RealWorker:
    """A worker process that takes trials from a database of its own.

    `tasks` is the source of the users' module; `flags` go to its command and `environment` to its
    processes, which log in at Redis as `user` ("name:password").
    """

    _databases = cycle(range(15, 0, -1))

    def __init__(
        self,
        url: str,
        root: Path,
        tasks: str,
        *flags: str,
        user: str = "",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.database = next(self._databases)
        self.url = f"{url.rpartition('/')[0]}/{self.database}"
        self.root = root
        root.mkdir(exist_ok=True)
        self.connection = connect(self.url)
        self.connection.flushdb()
        self.queue = TrialQueue(connect(self.url, decode=False))
        self.log = root / "worker.log"
        own_url = re.sub("//.*@", f"//{user}@", self.url) if user else self.url
        self._flags, self._environment = flags, {URL_VARIABLE: own_url, **(environment or {})}
        (root / f"{MODULE}.py").write_text(tasks)

    def start(self) -> None:
        command = [sys.executable, "-m", "scattershot_worker", "--device", "cpu"]
        command += ["--out", str(self.root), "--path", str(self.root), *self._flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **self._environment},
                cwd=self.root,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=die_with_parent(signal.SIGKILL),  # should pytest itself be killed
            )

    @property
    def name(self) -> str:
        return eventually(lambda: living_workers(self.connection))[0].name

    def children(self) -> list[int]:
        """Return the pids of the warm processes."""
        processes = psutil.Process(self.process.pid).children(recursive=True)
        return [
            process.pid
            for process in processes
            if "scattershot_worker.child.main" in " ".join(process.cmdline())
        ]

    def stop(self) -> None:
        if self.process.poll() is None:
            for pid in [*self.children(), self.process.pid]:
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class RealStudy:
    """A study of one task, as its master sees it."""

    _names = count(1)

    def __init__(self, worker: RealWorker, task: str, **info: Any) -> None:
        self.worker = worker
        self.name = f"study-{next(self._names)}"
        self.info = StudyInfo(self.name, "u1", f"{MODULE}:{task}", "acc", "maximize", **info)
        publish(worker.connection, self.info)
        self.states = TrialStates(worker.connection, self.name)
        self.folder = worker.root / self.name

    def spec(self, trial: int, epochs: int, **params: Any) -> TrialSpec:
        return TrialSpec(self.name, "u1", trial, "coarse", params, trial, epochs)

    def send(self, trial: int, until: int = 4, epochs: int | None = None, **params: Any) -> None:
        """Make the trial known at a budget, and put its next attempt on the queue.

        `epochs` is what it has when it is complete, if that is more.
        """
        _, last = self.states.submit(trial, until)
        self.worker.queue.put([(self.spec(trial, epochs or until, **params), last + 1)])

    def stop(self, trial: int, kind: StopReason, reason: str = "") -> None:
        """Ask for a trial's end: the flag first, then the message that makes it quick."""
        _, worker, attempt = self.states.signal(trial, kind, reason)
        send_stop(self.worker.connection, worker, (self.name, trial, attempt), kind)

    def state(self, trial: int) -> str:
        return str(self.states.connection.hget(self.states.keys.trial(trial), "state"))

    def events(self, trial: int) -> list[Event]:
        stream = EventStream(self.states.connection, self.name)
        return [
            event for event in stream.read("", block_ms=None, count=10**6) if event.trial == trial
        ]

    def last(self, trial: int) -> Event:
        return self.events(trial)[-1]

    def epochs(self, trial: int) -> list[int]:
        return [event.epoch for event in self.events(trial) if event.kind == "report"]

    def pids(self, trial: int) -> list[int]:
        """Return the process that trained each epoch, where the task reports it."""
        return [int(event.metrics["pid"]) for event in self.events(trial) if event.kind == "report"]

    def until(self, trial: int, state: str) -> None:
        """Wait for a trial's state; show the worker's log where it does not come."""
        try:
            eventually(lambda: self.state(trial) == state)
        except AssertionError:
            log = self.worker.log.read_text()
            raise AssertionError(f"{self.state(trial)}, not {state}; the log:\n{log}") from None

    def until_epoch(self, trial: int, epoch: int) -> None:
        eventually(lambda: epoch in self.epochs(trial))
