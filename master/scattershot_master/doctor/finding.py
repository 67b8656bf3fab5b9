"""Owns what a check comes to: a line that says how it is, what was found, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `do` is a remedy, "" where nothing needs one."""

    about: str
    level: Level
    found: str
    do: str = ""


def ok(about: str, found: str) -> Finding:
    """Return that a thing is as it should be."""
    return Finding(about, "ok", found)


def warn(about: str, found: str, do: str) -> Finding:
    """Return that a study would run, but not as well or as safely as it could."""
    return Finding(about, "warn", found, do)


def fail(about: str, found: str, do: str) -> Finding:
    """Return that a study would not run, or could lose something."""
    return Finding(about, "fail", found, do)
