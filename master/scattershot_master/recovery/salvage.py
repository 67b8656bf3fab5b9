"""What can be salvaged of a study whose ledger is lost, from its sound lines and checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scattershot_common.errors import CheckpointError
from scattershot_common.store.checkpoint_header import Header
from scattershot_common.store.checkpoint_names import parse_name, trial_key
from scattershot_common.store.store import Store
from scattershot_common.trial import ENDED, State, Value, trial_seed
from scattershot_master.state import events
from scattershot_master.state.events import FoldersNoted, LedgerEvent, StageOpened


@dataclass
class SalvagedTrial:
    """What was salvaged of one trial."""

    params: dict[str, Value] | None = None
    stage: str = ""
    #: By epoch: its metrics, and its checkpoint's name where it has one.
    history: dict[int, tuple[dict[str, float], str]] = field(default_factory=dict)
    attempts: int = 0
    worker: str = ""
    #: How it ended, if it has, and why; and why the master asked for that, if it did.
    end: tuple[State, str] | None = None
    kill: str = ""
    started: float = math.nan
    ended: float = math.nan

    @property
    def done(self) -> int:
        """The last epoch salvaged."""
        return max(self.history, default=0)


@dataclass
class SalvagedStudy:
    """What was salvaged of a study.

    `lines` and `damaged` count the ledger's lines, `files` the checkpoints.
    """

    study: dict[str, Any] | None = None
    begun: float = math.nan
    stages: dict[int, StageOpened] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    trials: dict[int, SalvagedTrial] = field(default_factory=dict)
    ensemble: dict[str, Any] | None = None
    #: Where code and data lie, if the ledger says it.
    home: FoldersNoted | None = None
    finished: bool = False
    lines: int = 0
    damaged: int = 0
    files: int = 0
    #: What the user should know.
    notes: list[str] = field(default_factory=list)

    def trial(self, number: int) -> SalvagedTrial:
        """Return what was salvaged of a trial, nothing yet if it is new."""
        return self.trials.setdefault(int(number), SalvagedTrial())


def read_ledger_lines(salvaged: SalvagedStudy, data: bytes) -> None:
    """Add what a ledger's lines say, leaving out those that are damaged."""
    for line in data.splitlines():
        try:
            _add(salvaged, events.read(json.loads(line)))
            salvaged.lines += 1
        except (ValueError, LookupError, TypeError, AttributeError):
            salvaged.damaged += 1


def _add(salvaged: SalvagedStudy, event: LedgerEvent) -> None:
    """Add an event; its line may be damaged, so every value is converted.

    Raises:
        ValueError, TypeError, AttributeError: a value is not what it should be.
    """
    match event:
        case events.StudyBegun():
            salvaged.study, salvaged.begun = dict(event.study), float(event.at)
        case events.SettingsChanged():
            salvaged.study = dict(event.study)
        case events.FoldersNoted():
            salvaged.home = FoldersNoted(str(event.folder), event.data)
        case events.StageOpened():
            salvaged.stages[int(event.stage_index)] = event
            for number in event.trials or ():
                salvaged.trial(number).end = None
        case events.StageClosed():
            salvaged.closed.add(int(event.stage_index))
        case events.TrialSampled():
            salvaged.trial(event.trial).params = dict(event.params)
        case events.EpochReported():
            metrics = {str(name): float(value) for name, value in event.metrics.items()}
            checkpoint = str(event.checkpoint or "")
            salvaged.trial(event.trial).history[int(event.epoch)] = (metrics, checkpoint)
        case events.KillAsked():
            salvaged.trial(event.trial).kill = str(event.reason)
        case events.RungSettled():
            for number, reason in event.kill:
                _end(salvaged.trial(number), "killed", str(reason), event.at)
        case events.EnsembleBuilt():
            salvaged.ensemble = event.ensemble
        case events.StudyFinished():
            salvaged.finished = True
        case events.TrialStarted():
            trial = salvaged.trial(event.trial)
            trial.attempts = max(trial.attempts, int(event.attempt))
            trial.worker = str(event.worker)
            trial.started = min(float(event.at), trial.started)  # NaN gives way to a number
        case events.TrialChanged() if event.state in ENDED:
            trial = salvaged.trial(event.trial)
            _end(trial, event.state, str(event.reason or ""), event.at)
            trial.attempts = max(trial.attempts, int(event.attempt))


def _end(trial: SalvagedTrial, state: State, reason: str, at: float) -> None:
    if trial.end is None:  # whatever follows a trial's end changes nothing
        trial.end = (state, reason or trial.kill * (state == "killed"))
        trial.ended = float(at)


def read_checkpoints(salvaged: SalvagedStudy, store: Store, seed: int) -> None:
    """Add what the newest sound checkpoint of every trial in `store` says; it stands over lines.

    A checkpoint is sealed by a checksum, a line of the ledger is not. One of another study (its
    seed does not derive from `seed`) is left alone.
    """
    for number in store.trials():
        checkpoint = store.newest_valid(
            number, None, lambda error: salvaged.notes.append(str(error))
        )
        if checkpoint is None:
            if store.exists(trial_key(number, "error.txt")) and not _ended(salvaged, number):
                salvaged.trial(number).end = ("failed", _last_line(store, number))
            continue
        key = trial_key(number, checkpoint.name)
        if checkpoint.header["seed"] != trial_seed(seed, number):
            salvaged.notes.append(f"{store.path_of(key)} is of another study; it is left alone")
            continue
        salvaged.files += 1
        names = {
            parsed.epoch: name for name in store.checkpoints(number) if (parsed := parse_name(name))
        }
        _adopt(salvaged.trial(number), checkpoint.header, names)
        written = store.written_at(key)
        if written is not None:
            trial = salvaged.trial(number)
            trial.started, trial.ended = min(written, trial.started), max(written, trial.ended)


def _ended(salvaged: SalvagedStudy, number: int) -> bool:
    return number in salvaged.trials and salvaged.trials[number].end is not None


def _adopt(trial: SalvagedTrial, header: Header, names: Mapping[int, str]) -> None:
    trial.params = dict(header["params"])
    trial.stage = str(header.get("stage", ""))
    trial.attempts = max(trial.attempts, header["attempt"])
    for line in header["history"]:
        epoch = int(line["epoch"])
        metrics = {name: value for name, value in line.items() if name != "epoch"}
        trial.history[epoch] = (metrics, names.get(epoch, ""))


def _last_line(store: Store, number: int) -> str:
    try:
        text = store.read(trial_key(number, "error.txt")).decode(errors="replace")
    except CheckpointError:
        return ""
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""
