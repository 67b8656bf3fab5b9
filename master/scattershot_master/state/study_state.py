"""A study's state: what the events of its ledger add up to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scattershot_common.bus.outcome import FAILURES
from scattershot_common.objective import Objective
from scattershot_common.store.open_store import study_store
from scattershot_common.store.store import Store
from scattershot_common.study.recorded_settings import StudySettings
from scattershot_common.trial import ENDED, STATES, State, Value, trial_seed
from scattershot_master.state import events
from scattershot_master.state.events import LedgerEvent

if TYPE_CHECKING:  # what looks at a study has no need of Redis
    from scattershot_common.bus.lane_signatures import TrainingMode


@dataclass(slots=True)
class TrialRecord:
    """What the ledger says of one trial."""

    number: int
    stage: str
    params: dict[str, Value]
    seed: int
    #: The stage's budget, and the epoch the trial is to reach before it waits or ends.
    epochs: int
    until: int
    state: State = "waiting"
    reason: str = ""
    attempts: int = 0
    failures: int = 0
    worker: str = ""
    #: One record per epoch: "epoch" and its metrics.
    history: list[dict[str, float]] = field(default_factory=list)
    best_value: float = math.nan
    best_epoch: int = 0
    best_checkpoint: str = ""
    #: The last checkpoint's file name.
    checkpoint: str = ""
    #: Why the master asked for its end, while the worker has not answered yet.
    kill_asked: str = ""
    #: Seconds since 1970 of its first start and of its last end, by the master's clock.
    started: float = math.nan
    ended: float = math.nan

    @property
    def done(self) -> int:
        """Epochs trained and reported."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    @property
    def living(self) -> bool:
        """Whether it is still to be trained."""
        return self.state not in ENDED


@dataclass(slots=True)
class StageRecord:
    """One stage as it was opened."""

    name: str
    index: int
    #: How many trials it has when all are sampled, and which it has so far.
    target: int
    trials: list[int]
    #: The box new points are drawn in (`Box.to_json`), and what was narrowed, for the user.
    box: Any = None
    notes: list[str] = field(default_factory=list)
    closed: bool = False


@dataclass
class StudyState:
    """The fold of a study's events. Only `apply` and `apply_lines` change it."""

    settings: StudySettings = field(default_factory=StudySettings)
    uid: str = ""
    stages: list[StageRecord] = field(default_factory=list)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    #: The trials' numbers by state, kept up to date by `_move`.
    by_state: dict[State, set[int]] = field(
        default_factory=lambda: {state: set() for state in STATES}
    )
    #: The id in the event stream up to which events have been applied.
    cursor: str = ""
    ensemble: dict[str, Any] | None = None
    #: How the trials of each signature are trained, alone or fused, as one worker has measured it.
    kinds: dict[str, TrainingMode] = field(default_factory=dict)
    #: The folder of the study file, where the user's code is ("" where the ledger does not say),
    #: and that of the task's data as the workers get it.
    home: str = ""
    data: str | None = None
    #: Whether the study has come to its end, and when it was first begun (seconds since 1970).
    finished: bool = False
    begun: float = math.nan

    @property
    def living(self) -> int:
        """How many trials are still to be trained."""
        return sum(len(numbers) for state, numbers in self.by_state.items() if state not in ENDED)

    @property
    def name(self) -> str:
        """The study's name, which is also its folder's."""
        return self.settings.name

    @property
    def store(self) -> str | None:
        """The URL of the object store that has the checkpoints, unless its folder has them."""
        return self.settings.checkpoints.store

    def checkpoints(self, folder: Path) -> Store:
        """Return what holds `trials/`; `folder` is the study's. Raises like `study_store`."""
        return study_store(self.store, folder, self.name)

    @property
    def objective(self) -> Objective:
        """The metric that trials are ranked by, and whether larger is better."""
        return self.settings.objective

    def apply_lines(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Apply a ledger's lines in order.

        Reports are read here, without making an `EpochReported` of each: of the time that a large
        ledger takes, that would be a tenth.
        """
        report = self._report
        for line in lines:
            if line["e"] == events.REPORT:
                report(line["t"], line["n"], line["m"], line.get("f"))
                if cursor := line.get("c"):
                    self.cursor = cursor
            else:
                self.apply(events.read(line))

    def apply(self, event: LedgerEvent) -> None:
        """Apply one event. The same event twice changes nothing the second time."""
        if cursor := getattr(event, "cursor", None):
            self.cursor = cursor
        if handler := _HANDLERS.get(type(event)):
            handler(self, event)

    def _begin(self, event: events.StudyBegun) -> None:
        self.settings = StudySettings(event.study)
        self.uid, self.begun = event.uid, event.at

    def _change_settings(self, event: events.SettingsChanged) -> None:
        self.settings = StudySettings(event.study)
        self.finished = False

    def _note_folders(self, event: events.FoldersNoted) -> None:
        self.home, self.data = event.folder, event.data

    def _open_stage(self, event: events.StageOpened) -> None:
        if event.stage_index < len(self.stages):
            return
        continued = event.trials or ()
        stage = StageRecord(
            event.stage,
            event.stage_index,
            event.target,
            list(continued),
            event.box,
            list(event.notes or ()),
        )
        self.stages.append(stage)
        for number, until in zip(continued, event.until or (), strict=True):
            trial = self.trials[number]
            trial.stage, trial.epochs, trial.until = stage.name, event.epochs or until, until
            trial.reason = ""
            self._move(trial, "waiting")

    def _close_stage(self, event: events.StageClosed) -> None:
        self.stages[event.stage_index].closed = True

    def _sample(self, event: events.TrialSampled) -> None:
        number = event.trial
        if number in self.trials:
            return
        stage = self.stages[-1]
        stage.trials.append(number)
        self.trials[number] = TrialRecord(
            number,
            stage.name,
            event.params,
            trial_seed(self.settings.seed, number),
            event.epochs,
            event.until,
        )
        self.by_state["waiting"].add(number)

    def _start(self, event: events.TrialStarted) -> None:
        trial = self.trials[event.trial]
        if event.attempt <= trial.attempts:
            return
        trial.attempts, trial.worker = event.attempt, event.worker
        if not trial.living:
            return  # Redis has lost its end; the worker that started it will be told
        self._move(trial, "running")
        if math.isnan(trial.started):
            trial.started = event.at

    def _report_event(self, event: events.EpochReported) -> None:
        self._report(event.trial, event.epoch, event.metrics, event.checkpoint)

    def _report(
        self, number: int, epoch: int, metrics: Mapping[str, float], checkpoint: str | None
    ) -> None:
        trial = self.trials[number]
        if epoch <= trial.done or not trial.living:
            return
        record = {"epoch": epoch, **metrics}
        record["epoch"] = epoch  # earlier versions let a task report a metric of this name
        trial.history.append(record)
        if checkpoint:
            trial.checkpoint = checkpoint
        objective = self.settings.objective
        value = metrics.get(objective.metric, math.nan)
        if objective.better(value, trial.best_value):
            trial.best_value, trial.best_epoch = value, epoch
            trial.best_checkpoint = checkpoint or ""

    def _change_trial(self, event: events.TrialChanged) -> None:
        trial, state = self.trials[event.trial], event.state
        if event.attempt < trial.attempts or not trial.living:
            return
        if (event.attempt, state) == (trial.attempts, trial.state):
            return  # applied before
        trial.attempts = event.attempt
        if event.why in FAILURES:
            trial.failures += 1
        if state == "paused" and trial.until > trial.done:
            state = "waiting"  # its rung was settled before this event was read
        trial.reason = event.reason or trial.kill_asked * (state == "killed")
        self._move(trial, state)
        if not trial.living:
            trial.kill_asked, trial.ended = "", event.at

    def _ask_kill(self, event: events.KillAsked) -> None:
        trial = self.trials[event.trial]
        if trial.living and not trial.kill_asked:
            trial.kill_asked = event.reason

    def _settle(self, event: events.RungSettled) -> None:
        for number in event.go:
            trial = self.trials[number]
            trial.until = event.until
            self._move(trial, "waiting")
        for number, reason in event.kill:
            trial = self.trials[number]
            trial.reason, trial.ended = reason, event.at
            self._move(trial, "killed")

    def _move(self, trial: TrialRecord, state: State) -> None:
        self.by_state[trial.state].discard(trial.number)
        self.by_state[state].add(trial.number)
        trial.state = state

    def _keep_ensemble(self, event: events.EnsembleBuilt) -> None:
        self.ensemble = event.ensemble

    def _choose_training(self, event: events.TrainingChosen) -> None:
        self.kinds[event.signature] = event.kind

    def _finish(self, event: events.StudyFinished) -> None:
        self.finished = True


#: What each event changes; the others count by their cursor alone.
_HANDLERS: dict[type, Callable[[StudyState, Any], None]] = {
    events.StudyBegun: StudyState._begin,
    events.SettingsChanged: StudyState._change_settings,
    events.FoldersNoted: StudyState._note_folders,
    events.StageOpened: StudyState._open_stage,
    events.StageClosed: StudyState._close_stage,
    events.TrialSampled: StudyState._sample,
    events.TrialStarted: StudyState._start,
    events.EpochReported: StudyState._report_event,
    events.TrialChanged: StudyState._change_trial,
    events.KillAsked: StudyState._ask_kill,
    events.RungSettled: StudyState._settle,
    events.TrainingChosen: StudyState._choose_training,
    events.EnsembleBuilt: StudyState._keep_ensemble,
    events.StudyFinished: StudyState._finish,
}
