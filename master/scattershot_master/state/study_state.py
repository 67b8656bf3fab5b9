"""Owns the master's whole state: what the events of a ledger add up to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scattershot_common.bus.fusion_choice import Kind
from scattershot_common.bus.outcome import FAILURES
from scattershot_common.objective import Goal, Objective
from scattershot_common.store import location
from scattershot_common.store.location import Location
from scattershot_common.study.recorded import StudySettings
from scattershot_common.trial import ENDED, STATES, State, Value, trial_seed

#: One line of a ledger. "e" names the event; the other keys are those `StudyState.apply` reads.
Event = Mapping[str, Any]


@dataclass(slots=True)
class TrialRecord:
    """All that is known of one trial."""

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
    #: One line per epoch: "epoch" and its metrics.
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
    """The fold. `apply` is the only thing that changes it."""

    settings: StudySettings = field(default_factory=StudySettings)
    uid: str = ""
    stages: list[StageRecord] = field(default_factory=list)
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    #: The trials' numbers by state; `_move` keeps it, so that nobody needs to go through all.
    by_state: dict[State, set[int]] = field(
        default_factory=lambda: {state: set() for state in STATES}
    )
    #: Stream id up to which events have been taken in.
    cursor: str = ""
    ensemble: dict[str, Any] | None = None
    #: How the trials of a signature are trained, alone or fused: one worker settles it for all.
    kinds: dict[str, Kind] = field(default_factory=dict)
    #: The folder of the study file, where the user's code is ("" in a ledger that does not tell),
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

    def checkpoints(self, folder: Path) -> Location:
        """Return what holds `trials/`; `folder` is the study's. Raises like `place.root`."""
        return location.root(self.store, folder, self.name)

    @property
    def objective(self) -> Objective:
        """The metric that trials are ranked by, and whether larger is better."""
        return self.settings.objective

    @property
    def metric(self) -> str:
        """The metric that trials are ranked by."""
        return self.objective.metric

    @property
    def goal(self) -> Goal:
        """Which way the metric is better."""
        return self.objective.goal

    @property
    def sign(self) -> int:
        """What to multiply the metric with so that larger is better."""
        return self.objective.sign

    def apply(self, event: Event) -> None:
        """Take one event in. The same event twice changes nothing the second time."""
        if cursor := event.get("c"):
            self.cursor = cursor
        kind = event["e"]
        if kind == "report":
            self._report(event)
        elif kind in _CHANGES:
            self._change(event, _CHANGES[kind])
        elif handler := _HANDLERS.get(kind):
            handler(self, event)

    def _study(self, event: Event) -> None:
        self.settings = StudySettings(event["study"])
        self.uid, self.begun = event["uid"], event["at"]

    def _settings(self, event: Event) -> None:
        self.settings = StudySettings(event["study"])
        self.finished = False

    def _home(self, event: Event) -> None:
        self.home, self.data = event["folder"], event["data"]

    def _stage(self, event: Event) -> None:
        if event["index"] < len(self.stages):
            return
        carried = event.get("trials", [])
        stage = StageRecord(
            event["stage"],
            event["index"],
            event["target"],
            list(carried),
            event.get("box"),
            event.get("notes", []),
        )
        self.stages.append(stage)
        for number, until in zip(carried, event.get("until", []), strict=True):
            trial = self.trials[number]
            trial.stage, trial.epochs, trial.until = stage.name, event["epochs"], until
            trial.reason = ""
            self._move(trial, "waiting")

    def _closed(self, event: Event) -> None:
        self.stages[event["index"]].closed = True

    def _sampled(self, event: Event) -> None:
        number = event["t"]
        if number in self.trials:
            return
        self.stages[-1].trials.append(number)
        self.trials[number] = TrialRecord(
            number,
            self.stages[-1].name,
            event["p"],
            trial_seed(self.settings.seed, number),
            event["epochs"],
            event["until"],
        )
        self.by_state["waiting"].add(number)

    def _started(self, event: Event) -> None:
        trial = self.trials[event["t"]]
        if event["a"] <= trial.attempts:
            return
        trial.attempts, trial.worker = event["a"], event["w"]
        if not trial.living:
            return  # Redis has lost its end; who started it will hear of it
        self._move(trial, "running")
        if math.isnan(trial.started):
            trial.started = event["at"]

    def _report(self, event: Event) -> None:
        trial = self.trials[event["t"]]
        epoch = event["n"]
        if epoch <= trial.done or not trial.living:
            return
        metrics = event["m"]
        trial.history.append({"epoch": epoch, **metrics})
        if file := event.get("f"):
            trial.checkpoint = file
        objective = self.settings.objective
        value = metrics.get(objective.metric, math.nan)
        if objective.better(value, trial.best_value):
            trial.best_value, trial.best_epoch = value, epoch
            trial.best_checkpoint = event.get("f", "")

    def _change(self, event: Event, state: State) -> None:
        trial = self.trials[event["t"]]
        if event["a"] < trial.attempts or not trial.living:
            return
        if (event["a"], state) == (trial.attempts, trial.state):
            return  # told before
        trial.attempts = event["a"]
        if event.get("y") in FAILURES:
            trial.failures += 1
        if state == "paused" and trial.until > trial.done:
            state = "waiting"  # its peers were settled while its word was on the way
        trial.reason = event.get("r") or trial.kill_asked * (state == "killed")
        self._move(trial, state)
        if not trial.living:
            trial.kill_asked, trial.ended = "", event["at"]

    def _kill(self, event: Event) -> None:
        trial = self.trials[event["t"]]
        if trial.living and not trial.kill_asked:
            trial.kill_asked = event["r"]

    def _settled(self, event: Event) -> None:
        for number in event["go"]:
            trial = self.trials[number]
            trial.until = event["until"]
            self._move(trial, "waiting")
        for number, reason in event["kill"]:
            trial = self.trials[number]
            trial.reason, trial.ended = reason, event["at"]
            self._move(trial, "killed")

    def _move(self, trial: TrialRecord, state: State) -> None:
        self.by_state[trial.state].discard(trial.number)
        self.by_state[state].add(trial.number)
        trial.state = state

    def _ensemble(self, event: Event) -> None:
        self.ensemble = event["ensemble"]

    def _kind(self, event: Event) -> None:
        self.kinds[event["s"]] = event["k"]

    def _finished(self, event: Event) -> None:
        self.finished = True


_CHANGES: dict[str, State] = {
    "waiting": "waiting",
    "paused": "paused",
    "complete": "complete",
    "killed": "killed",
    "failed": "failed",
}
_HANDLERS = {
    "study": StudyState._study,
    "settings": StudyState._settings,
    "home": StudyState._home,
    "stage": StudyState._stage,
    "closed": StudyState._closed,
    "sampled": StudyState._sampled,
    "started": StudyState._started,
    "kill": StudyState._kill,
    "settled": StudyState._settled,
    "ensemble": StudyState._ensemble,
    "kind": StudyState._kind,
    "finished": StudyState._finished,
}
