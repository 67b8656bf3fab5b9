"""The beginning and the end of an attempt: the claim of a trial, and how the attempt went."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from redis import Redis

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.study_info import StudyInfo, fetch
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.bus.trial_state import TrialStates, finish
from scattershot_common.errors import ScattershotError, StoreUnreachable
from scattershot_common.store.checkpoint_names import trial_key
from scattershot_common.store.open_store import study_store
from scattershot_common.store.store import Store
from scattershot_worker.attempt.attempt import Attempt, StopSignal, TrialStopped
from scattershot_worker.attempt.error_text import describe, first_line
from scattershot_worker.attempt.reporter import Reporter
from scattershot_worker.attempt.trial_handle import TrialHandle

log = logging.getLogger("scattershot.worker")

#: How an attempt went, and why where that matters; the supervisor acts on it.
Ending = tuple[Outcome, str]

_TAKEN_OVER = "another attempt has taken over"


@dataclass
class WorkerContext:
    """What a child keeps from trial to trial: connection, background thread, folder and device."""

    connection: Redis
    worker: str
    root: Path
    device: torch.device
    reporter: Reporter
    #: Tasks this worker trains (shell patterns); empty: all that it can import.
    allow: tuple[str, ...] = ()
    studies: dict[str, StudyInfo] = field(default_factory=dict)
    #: By study and URL: the attempts at a study's trials share a store and its flushes.
    _stores: dict[tuple[str, str | None], Store] = field(default_factory=dict)

    def info(self, spec: TrialSpec) -> StudyInfo:
        """Return what the master published of the spec's study, asking Redis once per study."""
        info = self.studies.get(spec.study)
        if info is None or info.uid != spec.uid:
            info = self.studies[spec.study] = fetch(self.connection, spec.study)
        return info

    def checkpoints(self, info: StudyInfo) -> Store:
        """Return what holds `trials/` of a study; raises like `study_store`."""
        key = info.name, info.store
        if key not in self._stores:
            self._stores[key] = study_store(info.store, self.root / info.name, info.name)
        return self._stores[key]

    def handle(self, attempt: Attempt) -> TrialHandle:
        """Return what the training of an attempt resumes from and reports to."""
        folder = self.root / attempt.spec.study
        return TrialHandle(attempt, self.reporter, folder=folder, device=self.device)


def claim(
    context: WorkerContext,
    spec: TrialSpec,
    number: int,
    signals: StopSignal,
    began: Callable[[StudyInfo], None] = lambda info: None,
) -> Attempt | Ending:
    """Claim attempt `number` of a trial, or return why not; `began` is told its study first.

    Raises:
        ScattershotError: this worker must not train it; see `refuse`.
    """
    info = context.info(spec)
    if info.uid != spec.uid:
        return Outcome.REFUSED, "its study has been replaced"
    if context.allow and not any(fnmatchcase(info.task, pattern) for pattern in context.allow):
        raise ScattershotError(f"this worker may not train the task {info.task!r} (see --allow)")
    checkpoints = context.checkpoints(info)
    began(info)
    states = TrialStates(context.connection, spec.study)
    answer = states.claim(spec.trial, number, context.worker)
    if not answer.granted:
        return Outcome.REFUSED, f"it is {answer.state}"
    return Attempt(spec, number, info, answer, states, checkpoints, signals)


def refuse(context: WorkerContext, spec: TrialSpec, number: int, reason: str) -> Ending:
    """Let the trial fail, so that the master and its user learn of the refusal."""
    log.error("trial %d refused: %s", spec.trial, reason)
    states = TrialStates(context.connection, spec.study)
    if states.claim(spec.trial, number, context.worker).granted:
        text = f"refused by worker {context.worker}: {reason}"
        states.run([finish(spec.trial, number, "failed", text)])
    return Outcome.REFUSED, reason


def conclude(reporter: Reporter, attempt: Attempt, error: BaseException | None = None) -> Ending:
    """Report the end of an attempt, which `error` has cut short; return how it went.

    An error of the user's code ends the trial as failed, with the error as its reason and the
    traceback in the trial's folder.
    """
    if error is None:
        (ending,) = conclude_all(reporter, [attempt])
        return ending
    if isinstance(error, TrialStopped):
        return _stopped(reporter, attempt, error.reason)
    if isinstance(error, StoreUnreachable):
        return _unsaved(reporter, attempt, error)
    if out_of_memory(error):
        # It may be a neighbour's memory: worth another attempt, counted as a failure.
        release_memory()
        reporter.flush(attempt)
        return Outcome.CRASH, f"out of memory: {first_line(error)}"
    reason = str(error) if isinstance(error, ScattershotError) else describe(error)
    log.error("trial %d failed: %s", attempt.trial, reason)
    _write_traceback(attempt, error)
    return _ended(reporter.end(attempt, "failed", reason))


def conclude_all(reporter: Reporter, attempts: Sequence[Attempt]) -> list[Ending]:
    """Report the ends of attempts that have trained all their epochs; see `conclude`."""
    ends = []
    for attempt in attempts:
        complete = attempt.early or attempt.claim.until >= attempt.spec.epochs
        ends.append((attempt, "complete" if complete else "paused", attempt.early))
    return [
        _unsaved(reporter, attempt, attempt.signals.error) if attempt.unsaved else _ended(answer)
        for attempt, answer in zip(attempts, reporter.end_all(ends), strict=True)
    ]


def _stopped(reporter: Reporter, attempt: Attempt, reason: StopReason) -> Ending:
    if reason is StopReason.KILL:
        return _ended(reporter.end(attempt, "killed"))
    reporter.flush(attempt)  # a fenced one's too: the next trial's must not mix with them
    return Outcome(reason), _TAKEN_OVER if reason is StopReason.FENCED else ""


def _unsaved(reporter: Reporter, attempt: Attempt, error: Exception | None) -> Ending:
    """Give the trial back, whose last epochs an object store did not take."""
    if attempt.signals.stop is not None:
        return _stopped(reporter, attempt, attempt.signals.stop)
    reporter.flush(attempt)
    return Outcome.CRASH, str(error)


def _ended(state: str) -> Ending:
    if not state:
        return Outcome.DRAIN, "Redis could not be told of its end"
    if state == StopReason.FENCED:
        return Outcome.FENCED, _TAKEN_OVER
    return Outcome.ENDED, state


def _write_traceback(attempt: Attempt, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    try:
        attempt.checkpoints.write(trial_key(attempt.trial, "error.txt"), text.encode())
    except ScattershotError as refused:
        log.error("%s", refused)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is short, the device's or the machine's."""
    # on the CPU torch's allocator raises a plain RuntimeError
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def release_memory() -> None:
    """Give memory that torch has cached back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
