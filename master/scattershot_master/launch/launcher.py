"""Launchers: what starts and stops workers for a study."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class LauncherStatus(NamedTuple):
    """How many workers were asked for, and how many of them the launcher believes to run."""

    asked: int
    running: int


class Launcher(Protocol):
    """Starts and stops workers: on this machine, by ssh, by a batch system.

    Whether a worker takes trials is for the study's Redis to tell, not for its launcher.
    """

    def start(self, n: int) -> None:
        """Start `n` more workers.

        Raises:
            ScattershotError: they cannot be started.
        """

    def stop(self, n: int | None = None) -> None:
        """Let workers give their trials back and end: `n` of them at least, or all."""

    def status(self) -> LauncherStatus:
        """Return how many workers there are, without waiting."""

    def keep_alive(self) -> None:
        """Start again what has died; called every second by a master on the same machine.

        Raises:
            ScattershotError: they cannot be started, now or later.
        """
