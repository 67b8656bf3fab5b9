"""The choice between alone and fused, and the number of lanes: measured once, and cached.

A measurement holds for a machine and a signature. It is kept in the user's cache folder
(`~/.cache/scattershot`, or as XDG_CACHE_HOME says), so that the next study begins with it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import psutil
import torch

from scattershot_common.bus.lane_signatures import TrainingMode
from scattershot_common.errors import ScattershotError
from scattershot_common.local_files import write
from scattershot_common.task.task import Data, Task
from scattershot_worker.engine.engine import Signature
from scattershot_worker.fused.engine import FusedEngine
from scattershot_worker.fused.program import Programs
from scattershot_worker.fused.signature import NotFusable
from scattershot_worker.fused.verify import copied, first_batches, verify
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.training import Training

log = logging.getLogger("scattershot.worker")

#: Lanes must be at least this many times as fast as trials alone.
_MIN_GAIN = 1.15
#: Numbers of lanes that are measured, and the most that are ever used.
_FEW, _MANY, _MAX_LANES = 8, 32, 256
#: Seconds for which each is measured.
_MEASURING_SECONDS = 0.03
#: The share of the free memory that lanes may take.
_MEMORY_SHARE = 0.5
#: More lanes must be faster per lane than fewer by this factor; above it, fewer are used.
_SLACK = 1.03
#: Measurements that are kept.
_CACHED = 1000


@dataclass
class Plan:
    """How the trials of a signature are trained on this machine."""

    kind: TrainingMode
    reason: str
    #: Trials at a time.
    lanes: int
    #: The most that the user and the machine's memory allow.
    max_lanes: int
    programs: Programs = field(default_factory=dict)
    #: Seconds per lane of the latest epochs, by number of lanes.
    _lane_seconds: dict[int, list[float]] = field(default_factory=dict)

    def observe(self, lanes: int, seconds: float) -> None:
        """Record how long an epoch of `lanes` lanes took; adapts how many lanes are used next."""
        times = self._lane_seconds.setdefault(lanes, [])
        times.append(seconds / lanes)
        del times[:-8]
        if lanes != self.lanes or len(times) < 3:
            return
        best = {n: min(times) for n, times in self._lane_seconds.items() if len(times) >= 3}
        fewer = {n: time for n, time in best.items() if n < lanes}
        if not fewer:
            return
        fastest = min(fewer, key=lambda n: fewer[n])
        if best[lanes] > _SLACK * fewer[fastest]:
            self.lanes = self.max_lanes = fastest
        elif 2 * lanes <= self.max_lanes and best[lanes] < 0.9 * fewer[fastest]:
            self.lanes = 2 * lanes

    def shrink(self) -> None:
        """Halve the number of lanes for good, after an out-of-memory error."""
        self.lanes = self.max_lanes = max(1, self.lanes // 2)


class Tuner:
    """The plans of one worker, by signature."""

    def __init__(self, setting: int = 0, cache: Path | None = None) -> None:
        """Take the setting of --lanes (0: auto), and the file in which measurements are cached."""
        self._setting = setting
        self._cache = Cache(cache or platformdirs.user_cache_path("scattershot") / "lanes.json")
        self._plans: dict[str, Plan] = {}

    def plan(
        self,
        task: Task,
        training: Training,
        data: Data,
        signature: Signature,
        settled: TrainingMode | None,
        check: Callable[[], None] = lambda: None,
    ) -> Plan:
        """Return the plan of a signature; `settled` is its kind, if the study has settled it.

        `check` is called between measurements, and may raise what ends the trial.
        """
        plan = self._plans.get(signature.key)
        if plan is None or settled not in (None, plan.kind):
            plan = self._make(task, training, data, signature, settled, check)
            self._plans[signature.key] = plan
        return plan

    def _make(
        self,
        task: Task,
        training: Training,
        data: Data,
        signature: Signature,
        settled: TrainingMode | None,
        check: Callable[[], None],
    ) -> Plan:
        max_lanes = min(self._setting or _MAX_LANES, _lanes_in_memory(training, signature))
        if settled is not None:
            lanes = self._cache.lanes(signature.key) or _MANY
            return Plan(settled, "as the study's other workers", min(lanes, max_lanes), max_lanes)
        if self._setting == 1:
            return Plan("alone", "--lanes 1", 1, 1)
        if cached := self._cache.read(signature.key):
            kind, reason, lanes = cached
            return Plan(kind, reason, min(lanes, max_lanes), max_lanes)
        plan = _measured(task, training, data, signature, max_lanes, check)
        self._cache.write(signature.key, plan)
        return plan


def _measured(
    task: Task,
    training: Training,
    data: Data,
    signature: Signature,
    max_lanes: int,
    check: Callable[[], None],
) -> Plan:
    programs: Programs = {}

    def time_lanes(lanes: int) -> float:
        return _time_lanes(task, training, data, signature, programs, lanes, alone, check)

    try:
        verify(task, training, data, signature, check)
        check()
        alone = _time_alone(training, data)
        lanes, fused = _FEW, time_lanes(_FEW)
        if fused < alone and max_lanes >= _MANY:
            many = time_lanes(_MANY)
            if many * _SLACK < fused:
                lanes, fused = _MANY, many
    except NotFusable as error:
        return Plan("alone", str(error), 1, 1)
    except (RuntimeError, MemoryError) as error:
        return Plan("alone", _failure(error), 1, 1)
    gain = alone / fused
    if gain < _MIN_GAIN:
        return Plan("alone", f"{lanes} at once would be {gain:.2f} times as fast", 1, 1)
    reason = f"{lanes} at once are {gain:.1f} times as fast"
    return Plan("fused", reason, min(lanes, max_lanes), max_lanes, programs)


def _failure(error: BaseException) -> str:
    """Return a line that says why lanes could not even be tried."""
    return f"several at once fail: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _time_alone(training: Training, data: Data) -> float:
    """Return the seconds of a trial's step alone."""
    trial = copied(training)
    x, y = (tensor[: trial.batch_size] for tensor in tensors_of(data.train))
    trial.model.train()
    trial.begin_epoch(1, [])
    trial.step(x, y)
    return _timed(lambda: trial.step(x, y), x.device)


def _time_lanes(
    task: Task,
    training: Training,
    data: Data,
    signature: Signature,
    programs: Programs,
    lanes: int,
    alone: float,
    check: Callable[[], None],
) -> float:
    """Return the seconds of a step per lane, of `lanes` lanes; `alone` is the time of one alone."""
    batches = max(2, min(10, int(_MEASURING_SECONDS / (alone * lanes))))
    part = first_batches(data, signature.batch_size, batches)
    batches = -(-len(tensors_of(part.train)[0]) // signature.batch_size)
    engine = FusedEngine(task, part, signature, programs)
    for trial in [copied(training) for _ in range(lanes)]:
        trial.begin_epoch(1, [])
        engine.admit(engine.lane(trial))
    engine.train_epoch(check)
    device = tensors_of(part.train)[0].device
    return _timed(lambda: engine.train_epoch(check), device) / batches / lanes


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes, the minimum of a few runs.

    On a CPU it is the thread's own time: other processes of the machine do not count.
    """
    on_gpu = device.type != "cpu"
    clock = time.perf_counter if on_gpu else time.thread_time
    times: list[float] = []
    while sum(times) < _MEASURING_SECONDS or len(times) < 3:
        started = clock()
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(clock() - started)
    return max(min(times), 1e-9)


def _lanes_in_memory(training: Training, signature: Signature) -> int:
    """Return how many lanes fit into the free memory, by estimate."""
    device = next(training.model.parameters()).device
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else int(psutil.virtual_memory().available)
    )
    tensors = [*training.model.parameters(), *training.model.buffers()]
    state = 6 * sum(tensor.nbytes for tensor in tensors)
    activations = 3 * 4 * signature.elements * signature.batch_size
    return max(1, int(_MEMORY_SHARE * free / max(state + activations, 1)))


class Cache:
    """Measurements in a JSON file; a file that cannot be read or written is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._machine = f"{platform.node()} {os.cpu_count()}"

    def read(self, key: str) -> tuple[TrainingMode, str, int] | None:
        """Return (kind, reason, lanes), if they were measured on this machine."""
        try:
            kind, reason, lanes = self._entries()[f"{self._machine} {key}"]
            if kind in ("alone", "fused") and int(lanes) >= 1:
                return kind, str(reason), int(lanes)
        except (KeyError, TypeError, ValueError):
            pass
        return None

    def lanes(self, key: str) -> int:
        """Return the number of lanes measured, 0 if there is none or it is alone."""
        entry = self.read(key)
        return entry[2] if entry and entry[0] == "fused" else 0

    def write(self, key: str, plan: Plan) -> None:
        """Add a measurement. Of two simultaneous writers one may be lost, and measures again."""
        entries = self._entries() | {f"{self._machine} {key}": [plan.kind, plan.reason, plan.lanes]}
        latest = dict([*entries.items()][-_CACHED:])
        with suppress(ScattershotError, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write(self._path, json.dumps(latest, indent=0).encode(), sync=False)

    def _entries(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}
