"""A worker's context in the test's own process: trials run here, with a real Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from scattershot_common.bus.connection import connect
from scattershot_common.bus.outcome import Outcome
from scattershot_common.bus.queue import WaitingTrials
from scattershot_common.bus.stream import Event, EventStream
from scattershot_common.bus.study_info import StudyInfo, publish
from scattershot_common.bus.trial_spec import AttemptKey, QueuedAttempt, TrialSpec
from scattershot_common.bus.trial_state import TrialStates
from scattershot_common.task.task import Task
from scattershot_common.trial import Value
from scattershot_worker.attempt.attempt import StopSignal
from scattershot_worker.attempt.lifecycle import WorkerContext
from scattershot_worker.attempt.reporter import Reporter
from scattershot_worker.attempt.snapshot import read_tensors
from scattershot_worker.child import pack_cache, run_job
from scattershot_worker.child.pack_cache import PackCache
from scattershot_worker.fused import NotFusable, Tuner
from support.checkpoints import Header, list_checkpoints, load, read_header

METRIC = "acc"


class FakeSupervisor:
    """Records what a child tells its supervisor."""

    def __init__(self) -> None:
        #: StopSignal of every attempt that was begun, and how those went that have ended.
        self.signals: dict[AttemptKey, StopSignal] = {}
        self.endings: dict[AttemptKey, tuple[Outcome, str]] = {}
        #: The most trials that were trained at a time, and the number that was asked for last.
        self.most = self.wanted = 0

    def began(self, info: StudyInfo) -> None:
        pass

    def claimed(self, attempt: QueuedAttempt) -> StopSignal:
        self.signals[attempt.key] = StopSignal()
        self.most = max(self.most, self.running)
        return self.signals[attempt.key]

    def ended(self, key: AttemptKey, outcome: Outcome, reason: str) -> None:
        self.endings[key] = outcome, reason

    def wants(self, lanes: int) -> None:
        self.wanted = lanes

    @property
    def running(self) -> int:
        """The number of attempts that have not ended."""
        return len(self.signals) - len(self.endings)


def _not_fusable(*arguments: object) -> None:
    raise NotFusable("for the test")


class Workbench:
    """A study in Redis, and the context of the worker "w1" that takes its trials."""

    def __init__(self, url: str, root: Path) -> None:
        self.connection = connect(url)
        self.folder = root / "study"
        self.info = StudyInfo("study", "u1", "task", METRIC, "maximize")
        publish(self.connection, self.info)
        self.states = TrialStates(self.connection, "study")
        self.context = WorkerContext(self.connection, "w1", root, torch.device("cpu"), Reporter())
        waiting = WaitingTrials(connect(url, decode=False))
        self.pack_cache = PackCache(waiting, Tuner(1, root / "lanes.json"))
        self.supervisor = FakeSupervisor()
        #: StopSignal of the attempt that runs.
        self.signals = StopSignal()

    def run(
        self,
        task: Task | Callable[[Any], object],
        trial: int = 7,
        *,
        attempt: int = 1,
        until: int = 4,
        epochs: int | None = None,
        seed: int = 5,
        params: Mapping[str, Value] | None = None,
    ) -> tuple[Outcome, str]:
        """Submit the trial and run one attempt at it; return how it went."""
        self.states.submit(trial, until)
        spec = TrialSpec("study", "u1", trial, "coarse", params or {}, seed, epochs or until)
        return self.serve(task, spec, attempt)

    def serve(
        self, task: Task | Callable[[Any], object], spec: TrialSpec, attempt: int
    ) -> tuple[Outcome, str]:
        """Do what the child does with the job of an attempt, which trains alone."""
        self.signals = StopSignal()
        with (
            patch.object(pack_cache, "load_task", lambda name, data: task),
            patch.object(run_job, "probe", _not_fusable),
        ):
            job = QueuedAttempt.signed(spec, attempt, "")
            run_job.serve(self.context, self.pack_cache, self.supervisor, job, self.signals)
        return self.supervisor.endings[spec.study, spec.trial, attempt]

    def minimize(self) -> None:
        """Let the study minimize its metric."""
        self.context.studies["study"] = replace(self.info, goal="minimize")

    def state(self, trial: int = 7) -> str:
        """Return what Redis says of the trial."""
        return str(self.connection.hget(self.states.keys.trial(trial), "state"))

    def events(self, trial: int = 7) -> list[Event]:
        """Return what the master would read of the trial."""
        stream = EventStream(self.connection, "study")
        return [event for event in stream.read("", block_ms=None) if event.trial == trial]

    def reported(self, trial: int = 7) -> list[tuple[int, dict[str, float]]]:
        """Return the trial's (epoch, metrics) as the master reads them."""
        return [
            (event.epoch, event.metrics) for event in self.events(trial) if event.kind == "report"
        ]

    def reason(self, trial: int = 7) -> str:
        """Return the last event's reason."""
        return self.events(trial)[-1].reason

    def checkpoints(self, trial: int = 7) -> list[Path]:
        """Return the trial's checkpoints, ascending by epoch."""
        return list_checkpoints(self.folder, trial)

    def last_header(self, trial: int = 7) -> Header:
        """Return the newest checkpoint's header."""
        return read_header(self.checkpoints(trial)[-1])

    def last_tensors(self, trial: int = 7) -> dict[str, Tensor]:
        """Return the newest checkpoint's tensors."""
        return read_tensors(load(self.checkpoints(trial)[-1]))
