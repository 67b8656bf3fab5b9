"""Owns the background thread that writes checkpoints and then, and only then, reports them."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.trial_state import Step, TrialStates, finish, renewal, report
from scattershot_common.errors import CheckpointError, ScattershotError, StoreUnreachable
from scattershot_common.store.checkpoint_names import checkpoint_name, trial_folder
from scattershot_common.store.files import Syncer, remove, write
from scattershot_common.store.location import Location
from scattershot_common.store.retention import own_leftovers
from scattershot_worker.attempt.snapshot import Snapshot
from scattershot_worker.attempt.stop_signal import StopSignal

log = logging.getLogger("scattershot.worker")

#: Checkpoints of one attempt, and handovers, that may wait before training waits too.
_SNAPSHOTS, _LINES = 4, 1024
_SYNC_EVERY = 2.0
#: Seconds for which training waits for an object store that does not answer.
_PATIENCE = 120.0


@dataclass
class Attempt:
    """One worker's try at a trial, as the reporter needs to know it."""

    states: TrialStates
    trial: int
    number: int
    #: What holds `trials/` of its study.
    checkpoints: Location
    metric: str
    goal: Literal["maximize", "minimize"]
    signals: StopSignal
    #: File names of this trial's checkpoints.
    files: set[str] = field(default_factory=set)
    #: The metric of every epoch that Redis has accepted.
    accepted: dict[int, float] = field(default_factory=dict)
    #: Why it is complete before its budget is used up; "" unless it is.
    early: str = ""
    #: What a crash may cost: epochs beyond it wait until those before are on the disk.
    room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_SNAPSHOTS))

    @cached_property
    def folder(self) -> Location:
        """What holds its checkpoints."""
        return trial_folder(self.checkpoints, self.trial)

    @property
    def unsaved(self) -> bool:
        """Whether only a store that does not answer is in its way: another attempt may get on."""
        return isinstance(self.signals.error, StoreUnreachable)


@dataclass(frozen=True)
class Line:
    """One epoch: its metrics, and its checkpoint where there is one to write."""

    attempt: Attempt
    epoch: int
    metrics: Mapping[str, float]
    snapshot: Snapshot | None
    header: Mapping[str, object]
    #: A line for every epoch so far, as JSON.
    history: Sequence[str]
    #: Small files beside the checkpoints, by name.
    files: Mapping[str, bytes]


@dataclass
class _End:
    attempt: Attempt
    state: str
    reason: str
    done: threading.Event = field(default_factory=threading.Event)
    answer: str = ""


class Reporter:
    """Takes epochs from the training thread, which goes on at once.

    Everything that has gathered is sent in one round trip, so a burst of short epochs costs
    little more than one. Answers come back through the attempt's `StopSignal`.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[Sequence[Line | _End]] = queue.Queue(_LINES)
        #: What is kept back until it can be sent together; None where nothing is.
        self._gathered: list[Line] | None = None
        self._syncer = Syncer()
        self._ended = threading.Event()
        for work in (self._work, self._sync):
            threading.Thread(target=work, name=f"reporter{work.__name__}", daemon=True).start()

    def line(self, line: Line) -> None:
        """Hand over an epoch; waits while `_SNAPSHOTS` of its checkpoints are on their way."""
        if line.snapshot is not None:
            line.attempt.room.acquire()
        if self._gathered is not None:
            self._gathered.append(line)
        else:
            self._queue.put([line])

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Send what the training thread hands over in here in one go, and in one round trip."""
        self._gathered = []
        try:
            yield
        finally:
            self._send()
            self._gathered = None

    def _send(self) -> None:
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    def end(self, attempt: Attempt, state: str, reason: str = "") -> str:
        """Write and report what is left, end the attempt; return its state, or "fenced".

        "" where Redis could not be told.
        """
        (answer,) = self.end_all([(attempt, state, reason)])
        return answer

    def end_all(self, ends: Iterable[tuple[Attempt, str, str]]) -> list[str]:
        """End attempts, each with the arguments of `end`, in one round trip."""
        items = [_End(*one) for one in ends]
        self._send()
        self._queue.put(items)
        for item in items:
            item.done.wait()
        return [item.answer for item in items]

    def flush(self, attempt: Attempt) -> None:
        """Write and report what is left of the attempt, which does not end here."""
        self.end(attempt, "")

    def _work(self) -> None:
        while True:
            items = [*self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    items += self._queue.get_nowait()
            self._handle(items)
            if any(isinstance(item, _End) and item.state for item in items):
                self._ended.set()

    def _sync(self) -> None:
        """Bring files onto the disk, every now and then and at a trial's end.

        In a thread of its own: a disk may take its time for each of many lanes' files, and no
        report waits for it. The checksum tells, should it come too late.
        """
        while True:
            self._ended.wait(_SYNC_EVERY)
            self._ended.clear()
            with contextlib.suppress(CheckpointError):
                self._syncer.flush()

    def _handle(self, items: list[Line | _End]) -> None:
        """Write, report and end, in the order in which they came."""
        steps: list[Step] = []
        after: list[Callable[[object], None]] = []
        for item in items:
            attempt = item.attempt
            if isinstance(item, Line):
                if item.snapshot is not None:
                    attempt.room.release()
                if attempt.signals.error is not None:
                    continue  # an epoch whose predecessor is missing must not be reported
                try:
                    name = self._write(item)
                except ScattershotError as error:
                    attempt.signals.error = error
                    continue
                steps.append(report(attempt.trial, attempt.number, item.epoch, item.metrics, name))
                after.append(_listener(item, name))
            elif item.state == "killed" or (item.state and not attempt.unsaved):
                error_ = None if attempt.unsaved else attempt.signals.error
                state, reason = ("failed", str(error_)) if error_ else (item.state, item.reason)
                early = state == "complete" and attempt.early != ""
                step = finish(attempt.trial, attempt.number, state, reason, early=early)
                steps.append(step)
                after.append(_ending(item))
            else:
                steps.append(renewal(attempt.trial, attempt.number))
                after.append(_ending(item))
        if not steps:
            return
        try:
            answers = items[0].attempt.states.run(steps)
        except Exception as error:  # Redis is gone for good: the training must not go on unheard
            log.warning("Redis cannot be reached: %s", error)
            for item in items:
                item.attempt.signals.set(StopReason.DRAIN)
                if isinstance(item, _End):
                    item.done.set()
            return
        for take, answer in zip(after, answers, strict=True):
            take(answer)

    def _write(self, line: Line) -> str:
        attempt = line.attempt
        for name, content in line.files.items():
            self._put(attempt, name, content)
        if line.snapshot is None:
            return ""
        name = checkpoint_name(
            attempt.metric, line.metrics[attempt.metric], attempt.trial, line.epoch
        )
        try:
            data = line.snapshot.serialize(line.header, line.history)
        except Exception as error:  # a kind of tensor that the format does not know
            raise CheckpointError(
                f"its state cannot be written to a checkpoint: {error}"
            ) from error
        self._put(attempt, name, data)
        return name

    def _put(self, attempt: Attempt, name: str, data: bytes | bytearray) -> None:
        path = attempt.folder / name
        _outwait(attempt, lambda: write(path, data, sync=False))
        self._syncer.note(path)


def _outwait(attempt: Attempt, work: Callable[[], None]) -> None:
    """Do `work`; try again while an object store is away, the attempt goes on and time is left."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return work()
        except StoreUnreachable as error:
            if attempt.signals.stop or time.monotonic() > end:
                raise
            log.warning("trial %d waits: %s", attempt.trial, error)
            time.sleep(1)


def _listener(line: Line, name: str) -> Callable[[object], None]:
    attempt = line.attempt

    def take(answer: object) -> None:
        stop = StopReason.of(answer)
        if stop is not None:
            attempt.signals.set(stop)
        if stop is StopReason.FENCED:
            return
        attempt.accepted[line.epoch] = line.metrics[attempt.metric]
        if name:
            attempt.files.add(name)
            leftovers = own_leftovers(attempt.files, attempt.accepted, attempt.goal)
            with contextlib.suppress(CheckpointError):  # a file too many harms nobody
                remove(attempt.folder / one for one in leftovers)
            attempt.files.difference_update(leftovers)

    return take


def _ending(item: _End) -> Callable[[object], None]:
    def take(answer: object) -> None:
        item.answer = str(answer)
        item.done.set()

    return take
