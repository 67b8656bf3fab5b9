"""What a child keeps from pack to pack: plans, traced programs, signatures of waiting trials."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from scattershot_common.bus.queue import WaitingTrials
from scattershot_common.task.task import Task
from scattershot_worker.attempt.task_loader import TrainFunction, load_task
from scattershot_worker.child.process_state import ProcessState
from scattershot_worker.child.shared_state import SharedState
from scattershot_worker.engine.engine import Signature
from scattershot_worker.fused import FusedEngine, Tuner
from scattershot_worker.training.data import data_on

log = logging.getLogger("scattershot.worker")

#: Engines without lanes that are kept.
_ENGINES = 4
#: Trials on the queue whose signatures are remembered.
_REMEMBERED = 10_000


@dataclass
class PackCache:
    """What a child keeps from pack to pack."""

    waiting: WaitingTrials
    tuner: Tuner
    #: Engines by signature, the last used last: what they have traced is used again.
    engines: dict[str, FusedEngine] = field(default_factory=dict)
    #: Signatures of trials on the queue, by job; "" for those that must be trained alone.
    known: dict[str, str] = field(default_factory=dict)
    #: The process before any task was loaded, and as each task has left it once it was loaded.
    _process: ProcessState | None = None
    _processes: dict[tuple[str, str | None], ProcessState] = field(default_factory=dict)
    #: The task that was loaded last, its data, and the state in which its trials begin.
    _loaded: tuple[object, object, SharedState] | None = None
    _logged: set[str] = field(default_factory=set)

    def remember(self, job: str, key: str) -> None:
        """Remember the signature of a waiting trial, so that it is determined once."""
        self.known[job] = key
        while len(self.known) > _REMEMBERED:
            del self.known[next(iter(self.known))]

    def engine(self, signature: Signature, make: Callable[[], FusedEngine]) -> FusedEngine:
        """Return the engine of a signature, making it at first."""
        engine = self.engines.pop(signature.key, None) or make()
        self.engines[signature.key] = engine
        while len(self.engines) > _ENGINES:
            del self.engines[next(iter(self.engines))]
        return engine

    def load(
        self, name: str, folder: str | None, device: torch.device
    ) -> tuple[Task | TrainFunction, SharedState]:
        """Return a task, and the state that its trials share, put back to where they begin.

        Raises:
            TaskError: the task or its data cannot be loaded.
        """
        if self._process is None:
            self._process = ProcessState()
        process = self._processes.get((name, folder))
        (process or self._process).restore()  # as another task has left it
        task = load_task(name, folder)
        data = data_on(task, device) if isinstance(task, Task) else None
        if process is None:
            process = self._processes[name, folder] = ProcessState()
        if self._loaded is None or self._loaded[0] is not task or self._loaded[1] is not data:
            self._loaded = task, data, SharedState(task, process)
        shared = self._loaded[2]
        shared.restore()
        return task, shared

    def log_once(self, text: str) -> None:
        """Log what holds for many trials once."""
        if text not in self._logged:
            self._logged.add(text)
            log.info("%s", text)
