"""The settings that a supervisor gives its child process, and what it must know of the child."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

#: The environment variable that carries the settings.
SETTINGS = "SCATTERSHOT_CHILD"
#: Lanes that a worker may come to want, for all that is known before its first trial.
AUTO_LANES = 32
#: The exit status of a child that could not begin, as no other could that is started like it.
UNUSABLE = os.EX_CONFIG


@dataclass(frozen=True)
class ChildSettings:
    """What a child needs to know. The Redis URL travels in the environment like the rest."""

    redis: str
    worker: str
    root: str
    device: str
    threads: int
    paths: tuple[str, ...]
    allow: tuple[str, ...] = ()
    #: Trials that may be trained at a time; 0: as many as is fastest.
    lanes: int = 0

    def to_json(self) -> str:
        """Return the settings as text for the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ChildSettings:
        """Read what `to_json` returned."""
        return cls(**json.loads(text))
