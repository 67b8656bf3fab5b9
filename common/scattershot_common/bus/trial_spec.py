"""A trial on its way to a worker: `TrialSpec`, and one attempt at it, `QueuedAttempt`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scattershot_common.bus.keys import job_id
from scattershot_common.bus.signing import secret, sign, verify
from scattershot_common.store.checkpoint_names import is_study_name
from scattershot_common.trial import Value

#: Study, trial, attempt: what an attempt is called between master, supervisor and child.
AttemptKey = tuple[str, int, int]

_ENCODE = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """All a worker must know of a trial: its study, its point of the space, seed and budget.

    `uid` tells two studies of one name apart; `epochs` is what it is to have when it is complete.
    """

    study: str
    uid: str
    trial: int
    stage: str
    params: Mapping[str, Value]
    seed: int
    epochs: int

    def to_json(self) -> str:
        """Return the spec as a job's argument."""
        return _ENCODE(
            [
                self.study,
                self.uid,
                self.trial,
                self.stage,
                dict(self.params),
                self.seed,
                self.epochs,
            ]
        )

    @classmethod
    def from_json(cls, text: str) -> TrialSpec:
        """Read a job's argument; raises ValueError for anything that is not a spec."""
        try:
            study, uid, trial, stage, params, seed, epochs = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a trial: {error}") from None
        texts, numbers = (study, uid, stage), (trial, seed, epochs)
        if not (
            all(type(value) is str for value in texts)
            and all(type(value) is int for value in numbers)
            and isinstance(params, dict)
        ):
            raise ValueError("not a trial: wrong types")
        if not is_study_name(study):  # it becomes a folder
            raise ValueError(f"not a trial: refused {study[:80]!r} as the name of a study")
        if not 0 <= trial < 10**18:
            raise ValueError(f"not a trial: refused {str(trial)[:80]} as its number")
        return cls(study, uid, trial, stage, params, seed, epochs)


@dataclass(frozen=True, slots=True)
class QueuedAttempt:
    """One attempt at a trial, as its job on the queue has it.

    `text` is the spec as the master signed it, `mac` the signature. The attempt's number (from 1)
    is left out of what is signed, so that a worker may give a trial back without the master: which
    attempt is due is settled by the trial's state.
    """

    spec: TrialSpec
    number: int
    text: str
    mac: str

    @classmethod
    def signed(cls, spec: TrialSpec, number: int, key: str) -> QueuedAttempt:
        """Return the attempt, signed with the cluster's secret (`signing.secret`)."""
        text = spec.to_json()
        return cls(spec, number, text, sign(text, key))

    @classmethod
    def read(cls, arguments: Any) -> QueuedAttempt:
        """Read a job's arguments; raises ValueError for anything that is not an attempt."""
        try:
            text, number, mac = arguments
            number = int(number)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a trial: {error}") from None
        return cls(TrialSpec.from_json(text), number, text, str(mac))

    @property
    def arguments(self) -> tuple[str, int, str]:
        """The arguments of its job."""
        return self.text, self.number, self.mac

    @property
    def key(self) -> AttemptKey:
        """Study, trial and attempt."""
        return self.spec.study, self.spec.trial, self.number

    @property
    def job(self) -> str:
        """The id of its job."""
        return job_id(*self.key)

    def is_authentic(self) -> bool:
        """Return whether it is signed with this process's secret; always true without one."""
        return verify(self.text, self.mac, secret())
