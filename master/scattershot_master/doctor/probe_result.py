"""The result of one of the doctor's probes: its level, what was observed, and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe of `subject` observed; `remedy` is "" where nothing needs one."""

    subject: str
    level: Level
    observation: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the keys that `doctor --json` prints."""
        return {
            "about": self.subject,
            "level": self.level,
            "found": self.observation,
            "do": self.remedy,
        }


def ok(subject: str, observation: str) -> ProbeResult:
    """Return that something is as it should be."""
    return ProbeResult(subject, "ok", observation)


def warn(subject: str, observation: str, remedy: str) -> ProbeResult:
    """Return that a study would run, but not as well or as safely as it could."""
    return ProbeResult(subject, "warn", observation, remedy)


def fail(subject: str, observation: str, remedy: str) -> ProbeResult:
    """Return that a study would not run, or could lose something."""
    return ProbeResult(subject, "fail", observation, remedy)
