"""The events of a ledger: a type for each, and the table by which they are written and read.

An event is a line of JSON whose "e" names it. Each has `at`, the seconds since 1970 at which it was
appended, NaN before (reports have none, there are too many); those that come from the study's event
stream have `cursor`, their id in it. An attribute that is None has no key in the file.

The types are named tuples: a dataclass takes five times as long to define, which the commands that
only look would notice, and three times as long to make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from scattershot_common.trial import State, Value

if TYPE_CHECKING:  # what looks at a study has no need of Redis
    from scattershot_common.bus.lane_signatures import TrainingMode


class StudyBegun(NamedTuple):
    """A study was begun with these settings (as `StudyFile.model_dump` writes them)."""

    uid: str
    study: Mapping[str, Any]
    version: str | None = None
    #: Whether the ledger was rebuilt from what was left of it.
    recovered: bool | None = None
    at: float = nan


class SettingsChanged(NamedTuple):
    """A study went on with other settings of those that may change."""

    study: Mapping[str, Any]
    at: float = nan


class FoldersNoted(NamedTuple):
    """Where the study file lies, and the task's data as the workers get it."""

    folder: str
    data: str | None
    at: float = nan


class StageOpened(NamedTuple):
    """A stage was opened: new points are to be drawn in `box`, or `trials` go on.

    `target` is how many trials it is to have, `until` the epoch that each of `trials` trains to
    before it waits or ends, and `notes` say what was narrowed, for the user.
    """

    stage: str
    stage_index: int
    target: int
    trials: Sequence[int] | None = None
    epochs: int | None = None
    until: Sequence[int] | None = None
    box: Any = None
    notes: Sequence[str] | None = None
    at: float = nan


class StageClosed(NamedTuple):
    """Every trial of a stage has ended."""

    stage_index: int
    at: float = nan


class TrialSampled(NamedTuple):
    """A trial of the open stage was drawn, with its budget and the epoch it trains to first."""

    trial: int
    params: dict[str, Value]
    epochs: int
    until: int
    at: float = nan


class TrialStarted(NamedTuple):
    """A worker took a trial."""

    trial: int
    attempt: int
    worker: str
    cursor: str | None = None
    at: float = nan


class EpochReported(NamedTuple):
    """A worker finished an epoch. `checkpoint` is the file's name; "" where none was written."""

    trial: int
    attempt: int
    epoch: int
    metrics: dict[str, float]
    checkpoint: str | None = None
    cursor: str | None = None


class TrialChanged(NamedTuple):
    """An attempt ended: the trial waits again, is paused, complete, killed or has failed.

    `reason` is for the user, `why` an `Outcome` that says how the attempt went.
    """

    state: State
    trial: int
    attempt: int
    reason: str | None = None
    why: str | None = None
    cursor: str | None = None
    at: float = nan


class KillAsked(NamedTuple):
    """A killer decided that a trial is to end."""

    trial: int
    reason: str
    at: float = nan


class RungSettled(NamedTuple):
    """The trials that waited at `epoch` were compared: `go` train on, `kill` have ended, and why.

    `until` is the epoch that those in `go` train to.
    """

    epoch: int
    go: Sequence[int]
    kill: Sequence[tuple[int, str]]
    until: int
    at: float = nan


class TrainingChosen(NamedTuple):
    """A worker measured how trials of a signature are trained: alone or fused."""

    signature: str
    kind: TrainingMode
    reason: str
    cursor: str | None = None
    at: float = nan


class EnsembleBuilt(NamedTuple):
    """An ensemble was built, or tested."""

    ensemble: dict[str, Any]
    at: float = nan


class StudyFinished(NamedTuple):
    """The last stage is closed and the ensemble is built."""

    at: float = nan


class StopAsked(NamedTuple):
    """The command `stop` asked a master to stop. Only its place in the stream matters."""

    cursor: str
    at: float = nan


class Skipped(NamedTuple):
    """An event of the stream was passed over. Only its place in the stream matters."""

    cursor: str
    at: float = nan


class Unknown(NamedTuple):
    """An event that this version does not know; a later one wrote it."""

    name: str
    cursor: str | None = None
    at: float = nan


LedgerEvent = (
    StudyBegun
    | SettingsChanged
    | FoldersNoted
    | StageOpened
    | StageClosed
    | TrialSampled
    | TrialStarted
    | EpochReported
    | TrialChanged
    | KillAsked
    | RungSettled
    | TrainingChosen
    | EnsembleBuilt
    | StudyFinished
    | StopAsked
    | Skipped
    | Unknown
)

#: The name of the event that a ledger has most of; `StudyState.apply_lines` reads it by itself.
REPORT = "report"
#: Each event's name in the file, its type, and its keys in the order in which they are written.
_TABLE: tuple[tuple[str, Any, str], ...] = (
    ("study", StudyBegun, "uid version study recovered at"),
    ("settings", SettingsChanged, "study at"),
    ("home", FoldersNoted, "folder data at"),
    ("stage", StageOpened, "stage index target trials epochs until box notes at"),
    ("closed", StageClosed, "index at"),
    ("sampled", TrialSampled, "t p epochs until at"),
    ("started", TrialStarted, "t a c w at"),
    (REPORT, EpochReported, "t a c n m f"),
    ("waiting", TrialChanged, "t a c r y at"),
    ("paused", TrialChanged, "t a c r y at"),
    ("complete", TrialChanged, "t a c r y at"),
    ("killed", TrialChanged, "t a c r y at"),
    ("failed", TrialChanged, "t a c r y at"),
    ("kill", KillAsked, "t r at"),
    ("settled", RungSettled, "n go kill until at"),
    ("kind", TrainingChosen, "c s k r at"),
    ("ensemble", EnsembleBuilt, "ensemble at"),
    ("finished", StudyFinished, "at"),
    ("stop", StopAsked, "c at"),
    ("skipped", Skipped, "c at"),
)
#: The attributes that have another key; all others are called the same in the file.
_KEYS = {
    "state": "e",
    "trial": "t",
    "attempt": "a",
    "cursor": "c",
    "epoch": "n",
    "metrics": "m",
    "checkpoint": "f",
    "reason": "r",
    "why": "y",
    "worker": "w",
    "params": "p",
    "signature": "s",
    "stage_index": "index",
    "kind": "k",
}


class _Format:
    """How one event is written and read."""

    def __init__(self, name: str, event: Any, keys: str) -> None:
        self.name, self.event = name, event
        by_key = {_KEYS.get(field, field): field for field in event._fields}
        self.keys = tuple(by_key)
        self.get_all = itemgetter(*by_key) if len(by_key) > 1 else None
        self.written = tuple((key, by_key[key]) for key in keys.split())
        #: Keys whose attribute may be None and is written all the same.
        self.nullable = {"data"} & {*by_key}

    def read(self, line: Mapping[str, Any]) -> Any:
        if self.get_all is not None:
            try:
                return self.event._make(self.get_all(line))
            except KeyError:
                pass  # one without a key that may be missing, or that must not be
        event = self.event
        values = {
            field: line[key]
            for key, field in zip(self.keys, event._fields, strict=True)
            if key in line or field not in event._field_defaults
        }
        return event(**values)

    def write(self, event: Any) -> dict[str, Any]:
        line: dict[str, Any] = {"e": self.name}
        for key, field in self.written:
            value = getattr(event, field)
            if value is not None or key in self.nullable:
                line[key] = value
        return line


_BY_NAME = {name: _Format(name, event, keys) for name, event, keys in _TABLE}
_BY_TYPE = {format_.event: format_ for format_ in _BY_NAME.values()}


def read(line: Mapping[str, Any]) -> LedgerEvent:
    """Return the event of a line of a ledger; keys that it does not have are passed over.

    >>> read({"e": "kill", "t": 3, "r": "by hand", "new": 1})
    KillAsked(trial=3, reason='by hand', at=nan)

    Raises:
        KeyError: a key is missing that was always written.
    """
    format_ = _BY_NAME.get(line["e"])
    if format_ is None:
        return Unknown(line["e"], line.get("c"), line.get("at", nan))
    event: LedgerEvent = format_.read(line)
    return event


def write(event: LedgerEvent) -> dict[str, Any]:
    """Return an event as it stands in a ledger.

    >>> write(KillAsked(3, "by hand", at=1.5))
    {'e': 'kill', 't': 3, 'r': 'by hand', 'at': 1.5}
    """
    if isinstance(event, TrialChanged):
        return _BY_NAME[event.state].write(event)
    if isinstance(event, Unknown):
        raise ValueError(f"{event.name!r} is no event of this version")
    return _BY_TYPE[type(event)].write(event)
