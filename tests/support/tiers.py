"""Which values of a parametrized test run in the fast tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def fast_first(values: Iterable[Any], fast: int = 1) -> list[Any]:
    """Return parameters of which the first `fast` run in the fast tier, the others in the slow."""
    return [
        value if index < fast else pytest.param(value, marks=pytest.mark.slow)
        for index, value in enumerate(values)
    ]
