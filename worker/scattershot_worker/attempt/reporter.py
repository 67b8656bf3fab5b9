"""The background thread that writes checkpoints and then, and only then, reports them."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.trial_state import Step, finish, renewal, report
from scattershot_common.errors import CheckpointError, ScattershotError, StoreUnreachable
from scattershot_common.store.checkpoint_names import checkpoint_name, trial_key
from scattershot_common.store.retention import obsolete_checkpoints
from scattershot_common.store.store import Store
from scattershot_worker.attempt.attempt import Attempt
from scattershot_worker.attempt.snapshot import Snapshot

log = logging.getLogger("scattershot.worker")

#: Handovers of the training thread that may wait before it waits too.
_QUEUED = 1024
_SYNC_EVERY = 2.0
#: Seconds for which training waits for an object store that does not answer.
_PATIENCE = 120.0


@dataclass(frozen=True)
class QueuedEpoch:
    """A trained epoch to be reported: its metrics, and its checkpoint if there is one to write."""

    attempt: Attempt
    epoch: int
    metrics: Mapping[str, float]
    snapshot: Snapshot | None
    header: Mapping[str, object]
    #: The record of every epoch so far, as JSON.
    history: Sequence[str]
    #: Small files beside the checkpoints, by name.
    files: Mapping[str, bytes]


@dataclass
class _QueuedEnd:
    """The end of an attempt to be reported; `answer` is its state, once it is `done`."""

    attempt: Attempt
    state: str
    reason: str
    done: threading.Event = field(default_factory=threading.Event)
    answer: str = ""


class Reporter:
    """Takes epochs from the training thread, which goes on at once.

    Everything that waits is sent in one round trip, so a burst of short epochs costs little more
    than one. Answers come back through the attempt's `StopSignal`.
    """

    def __init__(self) -> None:
        self._queue: queue.Queue[Sequence[QueuedEpoch | _QueuedEnd]] = queue.Queue(_QUEUED)
        #: Epochs that are held back to be sent together; None where they are sent at once.
        self._gathered: list[QueuedEpoch] | None = None
        #: Stores that were written to since the last flush.
        self._unsynced: set[Store] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        for work in (self._work, self._sync):
            threading.Thread(target=work, name=f"reporter{work.__name__}", daemon=True).start()

    def add(self, epoch: QueuedEpoch) -> None:
        """Hand over an epoch; waits while too many checkpoints of its attempt are unwritten."""
        if epoch.snapshot is not None:
            epoch.attempt.unwritten.acquire()
        if self._gathered is not None:
            self._gathered.append(epoch)
        else:
            self._queue.put([epoch])

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Send what the training thread hands over inside together, in one round trip."""
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
        """Write and report what is queued, end the attempt; return its state, or "fenced".

        "" where Redis could not be told.
        """
        (answer,) = self.end_all([(attempt, state, reason)])
        return answer

    def end_all(self, ends: Iterable[tuple[Attempt, str, str]]) -> list[str]:
        """End attempts, each with the arguments of `end`, in one round trip."""
        items = [_QueuedEnd(*end) for end in ends]
        self._send()
        self._queue.put(items)
        for item in items:
            item.done.wait()
        return [item.answer for item in items]

    def flush(self, attempt: Attempt) -> None:
        """Write and report what is queued of the attempt, which does not end here."""
        self.end(attempt, "")

    def _work(self) -> None:
        while True:
            items = [*self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    items += self._queue.get_nowait()
            self._handle(items)
            if any(isinstance(item, _QueuedEnd) and item.state for item in items):
                self._ended.set()

    def _sync(self) -> None:
        """Flush files to the disk, every `_SYNC_EVERY` seconds and at a trial's end.

        In a thread of its own: a disk may be slow for each of many lanes' files, and no report
        waits for it. A file that a power failure has cut off is told by its checksum.
        """
        while True:
            self._ended.wait(_SYNC_EVERY)
            self._ended.clear()
            with self._lock:
                stores, self._unsynced = self._unsynced, set()
            for store in stores:
                with contextlib.suppress(CheckpointError):
                    store.flush()

    def _handle(self, items: list[QueuedEpoch | _QueuedEnd]) -> None:
        """Write, report and end, in the order in which they came."""
        steps: list[Step] = []
        after: list[Callable[[object], None]] = []
        for item in items:
            attempt = item.attempt
            if isinstance(item, QueuedEpoch):
                if item.snapshot is not None:
                    attempt.unwritten.release()
                if attempt.signals.error is not None:
                    continue  # an epoch whose predecessor is missing must not be reported
                try:
                    name = self._write(item)
                except ScattershotError as error:
                    attempt.signals.error = error
                    continue
                steps.append(report(attempt.trial, attempt.number, item.epoch, item.metrics, name))
                after.append(_report_answer(item, name))
            elif item.state == "killed" or (item.state and not attempt.unsaved):
                error_ = None if attempt.unsaved else attempt.signals.error
                state, reason = ("failed", str(error_)) if error_ else (item.state, item.reason)
                early = state == "complete" and attempt.early != ""
                step = finish(attempt.trial, attempt.number, state, reason, early=early)
                steps.append(step)
                after.append(_end_answer(item))
            else:
                steps.append(renewal(attempt.trial, attempt.number))
                after.append(_end_answer(item))
        if not steps:
            return
        try:
            answers = items[0].attempt.states.run(steps)
        except Exception as error:  # Redis is gone for good: the training must not go on unreported
            log.warning("Redis cannot be reached: %s", error)
            for item in items:
                item.attempt.signals.set(StopReason.DRAIN)
                if isinstance(item, _QueuedEnd):
                    item.done.set()
            return
        for handle, answer in zip(after, answers, strict=True):
            handle(answer)

    def _write(self, epoch: QueuedEpoch) -> str:
        attempt = epoch.attempt
        for name, content in epoch.files.items():
            self._put(attempt, name, content)
        if epoch.snapshot is None:
            return ""
        objective = attempt.objective
        value = objective.of(epoch.metrics)
        name = checkpoint_name(objective.metric, value, attempt.trial, epoch.epoch)
        try:
            data = epoch.snapshot.serialize(epoch.header, epoch.history)
        except Exception as error:  # a kind of tensor that the format does not know
            raise CheckpointError(
                f"its state cannot be written to a checkpoint: {error}"
            ) from error
        self._put(attempt, name, data)
        return name

    def _put(self, attempt: Attempt, name: str, data: bytes | bytearray) -> None:
        key = trial_key(attempt.trial, name)
        _patiently(attempt, lambda: attempt.checkpoints.write(key, data))
        with self._lock:
            self._unsynced.add(attempt.checkpoints)


def _patiently(attempt: Attempt, work: Callable[[], None]) -> None:
    """Do `work`; repeat it while an object store is away, within `_PATIENCE` and until a stop."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return work()
        except StoreUnreachable as error:
            if attempt.signals.stop or time.monotonic() > end:
                raise
            log.warning("trial %d waits: %s", attempt.trial, error)
            time.sleep(1)


def _report_answer(epoch: QueuedEpoch, name: str) -> Callable[[object], None]:
    attempt = epoch.attempt

    def handle(answer: object) -> None:
        stop = StopReason.of(answer)
        if stop is not None:
            attempt.signals.set(stop)
        if stop is StopReason.FENCED:
            return
        attempt.accepted[epoch.epoch] = attempt.objective.of(epoch.metrics)
        if name:
            attempt.files.add(name)
            obsolete = obsolete_checkpoints(attempt.files, attempt.accepted, attempt.objective)
            with contextlib.suppress(CheckpointError):  # a file too many does no harm
                attempt.checkpoints.delete(trial_key(attempt.trial, name) for name in obsolete)
            attempt.files.difference_update(obsolete)

    return handle


def _end_answer(item: _QueuedEnd) -> Callable[[object], None]:
    def handle(answer: object) -> None:
        item.answer = str(answer)
        item.done.set()

    return handle
