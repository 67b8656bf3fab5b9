"""A study's progress and its order of trials: counts, the best, epochs and time left."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest

from scattershot_common.trial import STATES, State
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord

#: A rate is taken over this many seconds, and over more where they hold fewer epochs than this.
WINDOW_S, WINDOW_EPOCHS = 30.0, 20
#: Fewer seconds or epochs than these are no evidence for a rate.
LEAST_S, LEAST_EPOCHS = 2.0, 3
#: Trials that must have ended before the epochs they used say something of the others'.
LEAST_ENDED = 5


@dataclass(slots=True)
class StageProgress:
    """How far one stage is; `opened` is false while it is still to come.

    `done`, of `target`, are the trials that have ended or gone on to a later stage (which counts
    as complete here). `trained` is how many epochs they and the others have trained in this stage,
    `work` the share of its epochs, 0 to 1, that need no more training, and `left` how many epochs
    it is still expected to take.
    """

    name: str
    epochs: int
    target: int
    opened: bool = False
    closed: bool = False
    counts: dict[State, int] = field(default_factory=lambda: dict.fromkeys(STATES, 0))
    best_value: float = math.nan
    best_trial: int | None = None
    done: int = 0
    trained: int = 0
    work: float = 0.0
    left: float = 0.0
    notes: list[str] = field(default_factory=list)


def stages(state: StudyState) -> list[StageProgress]:
    """Return the progress of every stage of the study file, those to come included."""
    progress: list[StageProgress] = []
    used, before = _Used(), dict[int, int]()
    most = 0
    for index, settings in enumerate(state.settings.stages):
        epochs = settings.epochs
        stage = StageProgress(settings.name, epochs, settings.target)
        if index < len(state.stages):
            _count(state, state.stages[index], stage, before, used)
        elif not state.finished:
            share = used.share if state.settings.rules(index) else 1.0
            done = most if settings.continue_ else 0
            stage.left = stage.target * (epochs - done) * share
        progress.append(stage)
        most = max(most, epochs)
    return progress


class _Used:
    """Which share of their budgets ended trials have used: those killed need only a part."""

    def __init__(self) -> None:
        self.ended = self.epochs = self.budgets = 0

    @property
    def share(self) -> float:
        return self.epochs / self.budgets if self.ended >= LEAST_ENDED else 1.0


def _count(
    state: StudyState,
    record: StageRecord,
    stage: StageProgress,
    before: dict[int, int],
    used: _Used,
) -> None:
    """Fill `stage` in from its record, in one pass over its trials, and add to `used`.

    `before` are the epochs that trials had done when they went on to this stage; those that have
    gone on from here are added.
    """
    stage.opened, stage.closed = True, record.closed
    stage.target, stage.notes = record.target, record.notes
    better, counts = state.objective.better, stage.counts
    living = own = spent = 0  # budgets of the living and of the ended, epochs of the ended
    partly = 0  # epochs of the living
    for number in record.trials:
        trial = state.trials[number]
        trial_state, value = trial.state, trial.best_value
        base = before.get(number, 0)
        budget = stage.epochs - base
        if trial.stage != record.name:  # it has gone on to a later stage
            trial_state = "complete"
            value = _best_by(state, trial, stage.epochs)
            before[number] = stage.epochs
        if better(value, stage.best_value):
            stage.best_value, stage.best_trial = value, number
        counts[trial_state] += 1
        if trial_state == "complete":
            own += budget
            spent += budget
        elif trial_state in ("killed", "failed"):
            own += budget
            spent += max(trial.done - base, 0)
        else:
            living += budget
            partly += max(trial.done - base, 0)
    stage.done = counts["complete"] + counts["killed"] + counts["failed"]
    stage.trained = spent + partly
    used.ended += stage.done
    used.epochs += spent
    used.budgets += own
    living += (stage.target - len(record.trials)) * stage.epochs  # not sampled yet
    stage.work = (own + partly) / max(own + living, 1)
    if not stage.closed:
        share = spent / own if stage.done >= LEAST_ENDED else used.share
        stage.left = (living - partly) * share


def _best_by(state: StudyState, trial: TrialRecord, epoch: int) -> float:
    """Return the best value of a trial up to `epoch`; NaN where there is none."""
    if trial.best_epoch <= epoch:
        return trial.best_value
    objective = state.objective
    return objective.best(objective.of(one) for one in trial.history if one["epoch"] <= epoch)


def counts(state: StudyState) -> dict[State, int]:
    """Return how many trials are in each state."""
    return {trial_state: len(numbers) for trial_state, numbers in state.by_state.items()}


def leaders(state: StudyState, count: int) -> list[TrialRecord]:
    """Return the `count` best trials, best first, without sorting them all.

    Trials without a finite value are never among them; ties go by number, as in `ranking`.
    """
    score = state.objective.score
    keys = (
        (-score(trial.best_value), trial.number)
        for trial in state.trials.values()
        if math.isfinite(trial.best_value)
    )
    return [state.trials[number] for _, number in nsmallest(count, keys)]


class Rate:
    """The rate of the last seconds in epochs per second, from repeated counts of the epochs.

    >>> rate = Rate()
    >>> [rate.update(now, epochs) for now, epochs in ((0, 0), (1, 5), (4, 20))]
    [None, None, 5.0]
    """

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def update(self, now: float, epochs: int) -> float | None:
        """Return the rate at time `now` (seconds), or None before there is evidence for one."""
        counts = self._counts
        if not counts or epochs > counts[-1][1]:
            counts.append((now, epochs))
        while (
            len(counts) > 2
            and now - counts[1][0] > WINDOW_S
            and (epochs - counts[1][1] >= WINDOW_EPOCHS)
        ):
            counts.popleft()
        since, before = counts[0]
        if now - since < LEAST_S or epochs - before < LEAST_EPOCHS:
            return None
        return (epochs - before) / (now - since)


def time_left(progress: Iterable[StageProgress], rate: float | None) -> float | None:
    """Return the seconds the study is expected to take yet, or None where nothing tells."""
    left = sum(stage.left for stage in progress)
    return left / rate if rate and left > 0 else None


def rate_from_ends(state: StudyState, now: float) -> float | None:
    """Return the epochs per second of the trials that ended last, or None before there are some.

    For commands that only look: the ledger has no time for single epochs. `now` is in seconds
    since 1970.
    """
    ended = sorted(
        (trial for trial in state.trials.values() if trial.ended <= now and not trial.living),
        key=lambda trial: trial.ended,
    )[-WINDOW_EPOCHS:]
    if len(ended) < LEAST_ENDED:
        return None
    budgets = {stage.name: stage.epochs for stage in state.settings.stages}
    epochs = sum(
        trial.done - max((budgets[name] for name in _before(state, trial)), default=0)
        for trial in ended[1:]
    )
    seconds = now - ended[0].ended
    return epochs / seconds if seconds > 0 and epochs > 0 else None


def _before(state: StudyState, trial: TrialRecord) -> Iterator[str]:
    """Yield the names of the stages a trial has been through before its last one."""
    for stage in state.stages:
        if stage.name == trial.stage:
            return
        if trial.number in stage.trials:
            yield stage.name


def elapsed(state: StudyState, now: float) -> float:
    """Return the seconds from the study's begin to `now`, or to its last trial's end."""
    if state.finished:
        ends = [trial.ended for trial in state.trials.values() if not math.isnan(trial.ended)]
        now = max(ends, default=state.begun)
    return max(now - state.begun, 0.0)


def failures(state: StudyState) -> list[tuple[str, list[int]]]:
    """Return why trials failed, the most frequent first, and which did.

    Reasons that differ in their numbers only are one reason.
    """
    groups: dict[str, tuple[str, list[int]]] = {}
    for number in sorted(state.by_state["failed"]):
        reason = state.trials[number].reason or "no reason was given"
        groups.setdefault(re.sub(r"\d+(\.\d+)?", "#", reason), (reason, []))[1].append(number)
    return sorted(groups.values(), key=lambda group: -len(group[1]))


def last_trials(state: StudyState) -> dict[str, TrialRecord]:
    """Return the trial each worker took last (the one it runs, if it runs one), by its name.

    Only a trial's last attempt is known.
    """
    last: dict[str, TrialRecord] = {}
    for trial in state.trials.values():
        if not trial.worker:
            continue
        known = last.get(trial.worker)
        if known is None or _recency(trial) > _recency(known):
            last[trial.worker] = trial
    return dict(sorted(last.items()))


def _recency(trial: TrialRecord) -> tuple[bool, float]:
    return trial.state == "running", trial.started if math.isnan(trial.ended) else trial.ended


def ranked(state: StudyState, trials: Iterable[TrialRecord] | None = None) -> list[TrialRecord]:
    """Return trials best first; those without a finite value come last, by number."""
    score = state.objective.score

    def key(trial: TrialRecord) -> tuple[float, int]:
        value = trial.best_value
        return (-score(value) if math.isfinite(value) else math.inf, trial.number)

    return sorted(state.trials.values() if trials is None else trials, key=key)


def finite(state: StudyState, trials: Iterable[TrialRecord] | None = None) -> list[TrialRecord]:
    """Return the trials that have a finite value, best first."""
    return [trial for trial in ranked(state, trials) if math.isfinite(trial.best_value)]
