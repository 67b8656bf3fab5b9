"""Owns the choice between alone and fused, and how many lanes: measured, and remembered.

What was measured holds for a machine and a signature, and is kept in the user's cache folder, so
that the next study begins with it.
"""

from __future__ import annotations

import copy
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

import psutil
import torch

from scattershot_common.bus.fusion_choice import Kind
from scattershot_common.errors import ScattershotError
from scattershot_common.store.files import write
from scattershot_common.task.task import Data, Task
from scattershot_worker.fused.engine import Engine, Programs
from scattershot_worker.fused.signature import NotFusable, Signature
from scattershot_worker.fused.verify import some_batches, verify
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.training import Training

log = logging.getLogger("scattershot.worker")

#: How much faster than alone lanes must be.
_GAIN = 1.15
#: Lanes that are measured, and the most that are ever tried.
_FEW, _MANY, _MOST = 8, 32, 256
#: Seconds for which each is measured.
_MEASURE = 0.03
#: The part of the free memory that lanes may take.
_MEMORY = 0.5
#: Of the width that is best so far, what another may take longer before it is given up.
_SLACK = 1.03


@dataclass
class Plan:
    """How the trials of a signature are trained on this machine."""

    kind: Kind
    reason: str
    #: Trials at a time.
    lanes: int
    #: The most that the user, and the machine's memory, allow.
    most: int
    programs: Programs = field(default_factory=dict)
    _seen: dict[int, list[float]] = field(default_factory=dict)

    def observe(self, lanes: int, seconds: float) -> None:
        """Take in how long an epoch of so many lanes took; it may change how many are next."""
        seen = self._seen.setdefault(lanes, [])
        seen.append(seconds / lanes)
        del seen[:-8]
        if lanes != self.lanes or len(seen) < 3:
            return
        each = {count: min(times) for count, times in self._seen.items() if len(times) >= 3}
        fewer = {count: time for count, time in each.items() if count < lanes}
        if not fewer:
            return
        best = min(fewer, key=lambda count: fewer[count])
        if each[lanes] > _SLACK * fewer[best]:
            self.lanes = self.most = best
        elif 2 * lanes <= self.most and each[lanes] < 0.9 * fewer[best]:
            self.lanes = 2 * lanes

    def shrink(self) -> None:
        """Have half as many lanes from now on: memory was short."""
        self.lanes = self.most = max(1, self.lanes // 2)


class Tuner:
    """The plans of one worker, by signature."""

    def __init__(self, setting: int = 0, cache: Path | None = None) -> None:
        """Take the setting of --lanes (0: auto), and where measurements are kept."""
        self._setting = setting
        self._cache = Cache(cache or cache_folder() / "lanes.json")
        self._plans: dict[str, Plan] = {}

    def plan(
        self,
        task: Task,
        training: Training,
        data: Data,
        signature: Signature,
        known: Kind | None,
        check: Callable[[], None] = lambda: None,
    ) -> Plan:
        """Return the plan of a signature; `known` is the kind, where the study has settled it.

        `check` is called all the while, and may raise what ends the trial.
        """
        plan = self._plans.get(signature.key)
        if plan is None or known not in (None, plan.kind):
            plan = self._plans[signature.key] = self._make(
                task, training, data, signature, known, check
            )
        return plan

    def _make(
        self,
        task: Task,
        training: Training,
        data: Data,
        signature: Signature,
        known: Kind | None,
        check: Callable[[], None],
    ) -> Plan:
        most = min(self._setting or _MOST, _room(training, signature))
        if known is not None:
            lanes = self._cache.lanes(signature.key) or _MANY
            return Plan(known, "as the study's other workers", min(lanes, most), most)
        if self._setting == 1:
            return Plan("alone", "--lanes 1", 1, 1)
        if found := self._cache.read(signature.key):
            kind, reason, lanes = found
            return Plan(kind, reason, min(lanes, most), most)
        plan = _measured(task, training, data, signature, most, check)
        self._cache.write(signature.key, plan)
        return plan


def _measured(
    task: Task,
    training: Training,
    data: Data,
    signature: Signature,
    most: int,
    check: Callable[[], None],
) -> Plan:
    try:
        verify(task, training, data, signature, check)
        programs: Programs = {}
        check()
        alone = _time_alone(training, data)
        few = _time_lanes(task, training, data, signature, programs, _FEW, alone, check)
        lanes, each = _FEW, few
        if few < alone and most >= _MANY:
            many = _time_lanes(task, training, data, signature, programs, _MANY, alone, check)
            if many * _SLACK < few:
                lanes, each = _MANY, many
    except NotFusable as no:
        return Plan("alone", str(no), 1, 1)
    except Exception as error:
        if not isinstance(error, (RuntimeError, MemoryError)):
            raise
        return Plan("alone", f"{lanes_failed(error)}", 1, 1)
    gain = alone / each
    if gain < _GAIN:
        return Plan("alone", f"{lanes} at once would be {gain:.2f} times as fast", 1, 1)
    reason = f"{lanes} at once are {gain:.1f} times as fast"
    return Plan("fused", reason, min(lanes, most), most, programs)


def lanes_failed(error: BaseException) -> str:
    """Return in a line why lanes could not even be tried."""
    return f"several at once fail: {type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _copies(training: Training, count: int) -> list[Training]:
    # the task may hold all its data: it is not copied with the trial
    return [copy.deepcopy(training, {id(training.task): training.task}) for _ in range(count)]


def _time_alone(training: Training, data: Data) -> float:
    """Return the seconds of a trial's step alone."""
    (one,) = _copies(training, 1)
    x, y = (part[: one.batch_size] for part in tensors_of(data.train))
    one.model.train()
    one.begin_epoch(1, [])
    one.step(x, y)
    return _timed(lambda: one.step(x, y), x.device)


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
    """Return the seconds of a lane's step beside others."""
    batches = max(2, min(10, int(_MEASURE / (alone * lanes))))
    part = some_batches(data, signature.batch_size, batches)
    batches = -(-len(tensors_of(part.train)[0]) // signature.batch_size)
    engine = Engine(task, part, signature, programs)
    for one in _copies(training, lanes):
        one.begin_epoch(1, [])
        engine.admit(engine.lane(one))
    engine.train_epoch(check)
    device = tensors_of(part.train)[0].device
    return _timed(lambda: engine.train_epoch(check), device) / batches / lanes


def _timed(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds that `work` takes, the quickest of a few goes.

    On a CPU it is the thread's own time: other processes of the machine do not count.
    """
    on_gpu = device.type != "cpu"
    clock = time.perf_counter if on_gpu else time.thread_time
    times: list[float] = []
    while sum(times) < _MEASURE or len(times) < 3:
        begun = clock()
        work()
        if on_gpu:
            torch.cuda.synchronize(device)
        times.append(clock() - begun)
    return max(min(times), 1e-9)


def _room(training: Training, signature: Signature) -> int:
    """Return how many lanes the free memory has room for."""
    device = next(training.model.parameters()).device
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.type == "cuda"
        else int(psutil.virtual_memory().available)
    )
    tensors = [*training.model.parameters(), *training.model.buffers()]
    state = 6 * sum(tensor.nbytes for tensor in tensors)
    activations = 3 * 4 * signature.elements * signature.batch_size
    return max(1, int(_MEMORY * free / max(state + activations, 1)))


# ---- what is remembered


def cache_folder() -> Path:
    """Return the user's cache folder for scattershot."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "scattershot"


class Cache:
    """Measurements in a JSON file; a file that cannot be read or written is as good as none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._machine = f"{platform.node()} {os.cpu_count()}"

    def read(self, key: str) -> tuple[Kind, str, int] | None:
        """Return (kind, reason, lanes), if they were measured on this machine."""
        try:
            kind, reason, lanes = self._all()[f"{self._machine} {key}"]
            if kind in ("alone", "fused") and int(lanes) >= 1:
                return kind, str(reason), int(lanes)
        except (KeyError, TypeError, ValueError):
            pass
        return None

    def lanes(self, key: str) -> int:
        """Return the number of lanes measured, 0 if there is none or it is alone."""
        found = self.read(key)
        return found[2] if found and found[0] == "fused" else 0

    def write(self, key: str, plan: Plan) -> None:
        """Keep a measurement. Of two writers at once one may be lost, and measures again."""
        entries = self._all() | {f"{self._machine} {key}": [plan.kind, plan.reason, plan.lanes]}
        kept = dict([*entries.items()][-1000:])
        with suppress(ScattershotError, OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write(self._path, json.dumps(kept, indent=0).encode(), sync=False)

    def _all(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}
