"""The messages between a supervisor and its child: one JSON line each, `[name, *fields]`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_spec import AttemptKey, QueuedAttempt

# ---- from the supervisor


@dataclass(frozen=True, slots=True)
class Run:
    """Claim this attempt, and train it."""

    attempt: QueuedAttempt


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop an attempt."""

    attempt: AttemptKey
    reason: StopReason


# ---- from the child


@dataclass(frozen=True, slots=True)
class Ready:
    """Torch is imported and the device is there: the child waits for its first attempt."""

    device: str


@dataclass(frozen=True, slots=True)
class Began:
    """The attempt's study is known; the claim is next."""

    info: StudyInfo


@dataclass(frozen=True, slots=True)
class Claimed:
    """The child has claimed a further attempt, as a lane beside the one it was given."""

    attempt: QueuedAttempt


@dataclass(frozen=True, slots=True)
class Progress:
    """Training has got on since the last such message."""


@dataclass(frozen=True, slots=True)
class Lanes:
    """How many trials the child can train at a time."""

    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt is over, with the reason where one matters."""

    attempt: AttemptKey
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Free:
    """All attempts are over: the child waits for the next one, or leaves and is to be replaced."""

    leaves: bool = False


Message = Run | Stop | Ready | Began | Claimed | Progress | Lanes | Ended | Free

_READERS: dict[str, Callable[..., Message]] = {
    "Run": lambda arguments: Run(QueuedAttempt.read(arguments)),
    "Stop": lambda key, reason: Stop(_key(*key), StopReason(reason)),
    "Ready": Ready,
    "Began": lambda info: Began(StudyInfo(**info)),
    "Claimed": lambda arguments: Claimed(QueuedAttempt.read(arguments)),
    "Progress": Progress,
    "Lanes": Lanes,
    "Ended": lambda key, outcome, reason: Ended(_key(*key), Outcome(outcome), reason),
    "Free": Free,
}


def encode(message: Message) -> bytes:
    """Return a message as a line."""
    values = [getattr(message, field.name) for field in fields(message)]
    return json.dumps([type(message).__name__, *values], default=_plain).encode() + b"\n"


def decode(line: bytes | str) -> Message:
    """Read a line that `encode` returned.

    >>> decode(encode(Ended(("digits", 7, 1), Outcome.CRASH, "out of memory")))
    Ended(attempt=('digits', 7, 1), outcome=<Outcome.CRASH: 'crash'>, reason='out of memory')
    """
    name, *values = json.loads(line)
    return _READERS[name](*values)


def _plain(value: object) -> object:
    """Return what JSON has no form for as something that it has one for."""
    if isinstance(value, QueuedAttempt):
        return value.arguments
    if isinstance(value, StudyInfo):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} is part of no message")


def _key(study: str, trial: int, attempt: int) -> AttemptKey:
    return study, trial, attempt
