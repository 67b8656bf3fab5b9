"""Export as strict JSON: the whole study."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scattershot_master.export.data import whole_study
from scattershot_master.state.study_state import StudyState


def json_export(state: StudyState, folder: Path, history: bool) -> bytes:
    """Return the whole study as one line of JSON; the histories are always in it."""
    return f"{json_text(whole_study(state, folder))}\n".encode()


def json_text(data: object) -> str:
    """Return `data` as strict JSON, in which NaN and infinities are null.

    >>> json_text({"best": float("nan"), "of": (1.0, 2)})
    '{"best": null, "of": [1.0, 2]}'
    """
    try:
        return json.dumps(data, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(data), ensure_ascii=False, allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
