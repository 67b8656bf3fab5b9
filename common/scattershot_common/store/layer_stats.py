"""Owns the file of what was seen of a trial's layers: `trials/00017/layers.json`.

It lies beside the checkpoints and outlives them: it is the bad trials that need a diagnosis. It is
small, and written whole each time, so that a kill leaves the old one or the new one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from scattershot_common.errors import CheckpointError, StoreUnreachable
from scattershot_common.store import files
from scattershot_common.store.checkpoint_names import trial_folder
from scattershot_common.store.location import Location

LAYERS = "layers.json"
_FORMAT = 1


class LayerStats:
    """The lines of one trial, a line for an epoch that was looked at; see docs/diagnosis.md."""

    def __init__(self, lines: list[dict[str, Any]] | None = None) -> None:
        self.lines = lines or []

    @classmethod
    def read(cls, study: Location, trial: int, until: float = math.inf) -> LayerStats:
        """Return the lines up to epoch `until`; none where there is no such file, or no sound one.

        Raises StoreUnreachable where not the file but the whole store is at fault.
        """
        try:
            text = files.read(trial_folder(study, trial) / LAYERS)
            found = json.loads(text)
            if found["format"] != _FORMAT:
                return cls()
            return cls([dict(one) for one in found["epochs"] if one["epoch"] <= until])
        except StoreUnreachable:
            raise
        except (CheckpointError, ValueError, LookupError, TypeError):
            return cls()

    def add(self, line: Mapping[str, Any]) -> None:
        """Take the line of a further epoch; the picture of weights is the latest epoch's alone."""
        kept = [{k: v for k, v in one.items() if k != "picture"} for one in self.lines]
        self.lines = [*kept, dict(line)]

    def data(self) -> bytes:
        """Return the file's content; NaN and infinities as Python's tokens."""
        return json.dumps({"format": _FORMAT, "epochs": self.lines}).encode()
