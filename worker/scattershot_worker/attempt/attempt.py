"""Owns one attempt from claim to end: taken, trained alone, concluded."""

from __future__ import annotations

import logging
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from redis import Redis

import scattershot_common
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialSpec
from scattershot_common.bus.study_info import StudyInfo, fetch
from scattershot_common.bus.trial_state import Claim, TrialStates, finish
from scattershot_common.errors import ScattershotError, StoreUnreachable
from scattershot_common.store import location
from scattershot_common.store.checkpoint_names import trial_folder
from scattershot_common.store.files import write
from scattershot_common.task.task import Task
from scattershot_worker.attempt.error_hints import hint
from scattershot_worker.attempt.reporter import Attempt, Reporter
from scattershot_worker.attempt.stop_signal import StopSignal, TrialStopped
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.attempt.trial_handle import TrialHandle
from scattershot_worker.engine.solo import train

log = logging.getLogger("scattershot.worker")

_TAKEN_OVER = "another attempt has taken over"
#: Where code lies whose lines tell a user little; "<" begins the names of what is in no file.
_NOT_THE_USERS = (
    str(Path(__file__).parents[1]),
    str(Path(scattershot_common.__file__).parent),
    sysconfig.get_path("stdlib"),
    "<",
)


@dataclass
class WorkerContext:
    """What a child keeps from trial to trial: connection, background thread, place and device."""

    connection: Redis
    worker: str
    root: Path
    device: torch.device
    reporter: Reporter
    studies: dict[str, StudyInfo]
    #: Tasks this worker trains (shell patterns); empty: all that it can import.
    allow: tuple[str, ...] = ()

    def info(self, spec: TrialSpec) -> StudyInfo:
        """Return what the master published of the spec's study, asking Redis once per study."""
        known = self.studies.get(spec.study)
        if known is None or known.uid != spec.uid:
            known = self.studies[spec.study] = fetch(self.connection, spec.study)
        return known


@dataclass
class ClaimedTrial:
    """A trial that this worker has claimed."""

    spec: TrialSpec
    info: StudyInfo
    attempt: Attempt
    claim: Claim

    def handle(self, bench: WorkerContext) -> TrialHandle:
        """Return what its training runs on; torch's generators are seeded for its weights."""
        return TrialHandle(
            self.spec,
            self.info,
            self.attempt,
            bench.reporter,
            folder=bench.root / self.spec.study,
            until=self.claim.until,
            reported=self.claim.epoch,
            device=bench.device,
            log=log,
        )


def run_trial(
    bench: WorkerContext,
    spec: TrialSpec,
    number: int,
    signals: StopSignal,
    begun: Callable[[StudyInfo], None] = lambda info: None,
) -> tuple[Outcome, str]:
    """Train attempt `number` of a trial alone; return how it went, and why where that matters.

    Raises like `take`.
    """
    taken = take(bench, spec, number, signals, begun)
    return train_alone(bench, taken) if isinstance(taken, ClaimedTrial) else taken


def take(
    bench: WorkerContext,
    spec: TrialSpec,
    number: int,
    signals: StopSignal,
    begun: Callable[[StudyInfo], None] = lambda info: None,
) -> ClaimedTrial | tuple[Outcome, str]:
    """Claim attempt `number` of a trial, or return why not; `begun` hears of its study first.

    Raises:
        ScattershotError: this worker must not train it; see `refuse`.
    """
    info = bench.info(spec)
    if info.uid != spec.uid:
        return Outcome.REFUSED, "its study has been replaced"
    if bench.allow and not any(fnmatchcase(info.task, pattern) for pattern in bench.allow):
        raise ScattershotError(f"this worker may not train the task {info.task!r} (see --allow)")
    attempt = attempt_at(bench, info, spec, number, signals)
    begun(info)
    claim = attempt.states.claim(spec.trial, number, bench.worker)
    return (
        ClaimedTrial(spec, info, attempt, claim)
        if claim.granted
        else (Outcome.REFUSED, f"it is {claim.state}")
    )


def attempt_at(
    bench: WorkerContext, info: StudyInfo, spec: TrialSpec, number: int, signals: StopSignal
) -> Attempt:
    """Return an attempt as the reporter knows it, not claimed yet."""
    checkpoints = location.root(info.store, bench.root / spec.study, spec.study)
    states = TrialStates(bench.connection, spec.study)
    return Attempt(states, spec.trial, number, checkpoints, info.metric, info.goal, signals)


def train_alone(bench: WorkerContext, taken: ClaimedTrial) -> tuple[Outcome, str]:
    """Train a claimed trial by itself; return how it went."""
    try:
        task = load_task(taken.info.task, taken.info.data)
        trial = taken.handle(bench)
        if isinstance(task, Task):
            train(task, trial)
        else:
            task(trial)
        if trial.done < taken.claim.until and not taken.attempt.early:
            raise ScattershotError(
                f"the train function returned after {trial.done} of {taken.claim.until} epochs; "
                "loop over trial.epochs(...) to its end"
            )
    except (Exception, SystemExit, TrialStopped) as error:
        return conclude(bench, taken, error)
    return conclude(bench, taken)


def conclude(
    bench: WorkerContext, taken: ClaimedTrial, error: BaseException | None = None
) -> tuple[Outcome, str]:
    """Report the end of an attempt, which `error` has cut short; return what the supervisor does.

    An error of the user's code ends the trial as failed, with the error as its reason and the
    traceback in the trial's folder.
    """
    reporter, attempt = bench.reporter, taken.attempt
    if error is None:
        (outcome,) = conclude_all(bench, [taken])
        return outcome
    if isinstance(error, TrialStopped):
        return _stopped(reporter, attempt, error)
    if isinstance(error, StoreUnreachable):
        return _unsaved(reporter, attempt, error)
    if out_of_memory(error):
        # It may be a neighbour's memory: worth another attempt, counted as a failure.
        release_memory()
        reporter.flush(attempt)
        return Outcome.CRASH, f"out of memory: {_first_line(error)}"
    reason = str(error) if isinstance(error, ScattershotError) else where(error)
    log.error("trial %d failed: %s", taken.spec.trial, reason)
    _keep_traceback(attempt, error)
    return _ended(reporter.end(attempt, "failed", reason))


def conclude_all(bench: WorkerContext, taken: Sequence[ClaimedTrial]) -> list[tuple[Outcome, str]]:
    """Report the ends of attempts that have trained all their epochs; see `conclude`."""
    ends = []
    for one in taken:
        early = one.attempt.early
        over = early or one.claim.until >= one.spec.epochs
        ends.append((one.attempt, "complete" if over else "paused", early))
    answers = bench.reporter.end_all(ends)
    return [
        _unsaved(bench.reporter, one.attempt, one.attempt.signals.error)
        if one.attempt.unsaved
        else _ended(answer)
        for one, answer in zip(taken, answers, strict=True)
    ]


def refuse(bench: WorkerContext, spec: TrialSpec, number: int, why: str) -> tuple[Outcome, str]:
    """Let the trial fail, so that the master and its user learn of the refusal."""
    log.error("trial %d refused: %s", spec.trial, why)
    states = TrialStates(bench.connection, spec.study)
    if states.claim(spec.trial, number, bench.worker).granted:
        reason = f"refused by worker {bench.worker}: {why}"
        states.run([finish(spec.trial, number, "failed", reason)])
    return Outcome.REFUSED, why


def _stopped(reporter: Reporter, attempt: Attempt, stopped: TrialStopped) -> tuple[Outcome, str]:
    if stopped.reason is StopReason.KILL:
        return _ended(reporter.end(attempt, "killed"))
    reporter.flush(attempt)  # a fenced one's too: the next trial's must not mix with them
    fenced = stopped.reason is StopReason.FENCED
    return Outcome(stopped.reason), _TAKEN_OVER if fenced else ""


def _unsaved(reporter: Reporter, attempt: Attempt, error: Exception | None) -> tuple[Outcome, str]:
    """Give the trial back, whose last epochs an object store did not take."""
    if attempt.signals.stop is not None:
        return _stopped(reporter, attempt, TrialStopped(attempt.signals.stop))
    reporter.flush(attempt)
    return Outcome.CRASH, str(error)


def _ended(state: str) -> tuple[Outcome, str]:
    if not state:
        return Outcome.DRAIN, "Redis could not be told of its end"
    if state == StopReason.FENCED:
        return Outcome.FENCED, _TAKEN_OVER
    return Outcome.ENDED, state


def where(error: BaseException) -> str:
    """Return an error in one line, with the place in the user's code it came from."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(_NOT_THE_USERS) and "site-packages" not in frame.filename
    ]
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_first_line(error)}{place}{hint(_first_line(error))}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else ""


def _keep_traceback(attempt: Attempt, error: BaseException) -> None:
    path = trial_folder(attempt.checkpoints, attempt.trial) / "error.txt"
    try:
        write(path, "".join(traceback.format_exception(error)).encode(), sync=False)
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
