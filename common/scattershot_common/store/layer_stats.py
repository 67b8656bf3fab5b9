"""The file of what the monitors measured of a trial's layers: `trials/00017/layers.json`.

It lies beside the checkpoints and outlives them: it is the bad trials that need a diagnosis. It is
small, and written whole each time, so that a kill leaves the old one or the new one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from scattershot_common.errors import CheckpointError, StoreUnreachable
from scattershot_common.store.checkpoint_names import trial_key
from scattershot_common.store.store import Store

LAYERS = "layers.json"
_FORMAT = 1


class LayerStats:
    """The measurements of one trial, a line per monitored epoch; see docs/diagnosis.md."""

    def __init__(self, lines: list[dict[str, Any]] | None = None) -> None:
        self.lines = lines or []

    @classmethod
    def read(cls, store: Store, trial: int, until: float = math.inf) -> LayerStats:
        """Return the lines up to epoch `until`; none where there is no such file, or no sound one.

        Raises StoreUnreachable where not the file but the whole store is at fault.
        """
        try:
            content = json.loads(store.read(trial_key(trial, LAYERS)))
            if content["format"] != _FORMAT:
                return cls()
            return cls([dict(line) for line in content["epochs"] if line["epoch"] <= until])
        except StoreUnreachable:
            raise
        except (CheckpointError, ValueError, LookupError, TypeError):
            return cls()

    def add(self, line: Mapping[str, Any]) -> None:
        """Add the line of a further epoch; only the latest epoch keeps its picture of weights."""
        earlier = [{k: v for k, v in line.items() if k != "picture"} for line in self.lines]
        self.lines = [*earlier, dict(line)]

    def data(self) -> bytes:
        """Return the file's content; NaN and infinities as Python's tokens."""
        return json.dumps({"format": _FORMAT, "epochs": self.lines}).encode()
