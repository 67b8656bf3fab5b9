"""The launcher for this machine: worker commands, started again when they die."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from scattershot_common.bus.connection import URL_VARIABLE
from scattershot_common.entry_points import program
from scattershot_common.errors import StudyFileError
from scattershot_common.machine import die_with_parent
from scattershot_master.launch.launcher import LauncherStatus

#: How an error that is meant for the user begins in the log.
_ERROR = "scattershot: "
#: Seconds until workers that do not end are told again, and until they are killed then.
_STOPS_WITHIN, _STOPS_AT_ONCE_WITHIN = 20.0, 5.0


class LocalLauncher:
    """Runs worker commands as child processes; their output goes to `log`.

    Each `start` makes one command with that many slots, which supervises a child for each of them.
    """

    def __init__(
        self,
        url: str,
        *,
        root: Path,
        device: str,
        threads: int,
        lanes: str,
        paths: Sequence[Path],
        log: Path,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log: IO[bytes] = log.open("ab+")
        self._url = url
        self._options = ["--out", str(root), "--device", device, "--threads", str(threads)]
        self._options += ["--lanes", lanes, "--with-parent"]
        for path in paths:
            self._options += ["--path", str(path)]
        self._commands: list[_Command] = []

    def start(self, n: int) -> None:
        """Start a worker command with `n` slots."""
        arguments = [*program("worker"), *self._options, "--slots", str(n)]
        self._commands.append(_Command(arguments, n, self._url, self._log))

    def stop(self, n: int | None = None) -> None:
        """End the commands that were started last, until `n` slots are gone; by default all."""
        stopping: list[_Command] = []
        while self._commands and (n is None or sum(one.slots for one in stopping) < n):
            stopping.append(self._commands.pop())
        for command in stopping:
            command.terminate()
        for command in stopping:
            command.wait()
        if not self._commands:
            self._log.flush()

    def status(self) -> LauncherStatus:
        """Return the slots asked for, and those whose command runs."""
        running = sum(command.slots for command in self._commands if command.status is None)
        return LauncherStatus(sum(command.slots for command in self._commands), running)

    def keep_alive(self) -> None:
        """Start commands again that have died.

        Raises:
            StudyFileError: one was started wrongly, and always will be.
        """
        for command in self._commands:
            if command.status == StudyFileError.exit_code:
                raise StudyFileError(f"the workers do not start: {self._last_error()}")
            if command.status is not None:
                command.start()

    def _last_error(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith(_ERROR)] or ["no word"]
        return errors[-1].removeprefix(_ERROR)

    @property
    def pids(self) -> list[int]:
        """The process ids of the worker commands."""
        return [command.process.pid for command in self._commands]


class _Command:
    """A worker command's process."""

    def __init__(self, arguments: Sequence[str], slots: int, url: str, log: IO[bytes]) -> None:
        self.slots = slots
        self._arguments, self._log = arguments, log
        self._environment = {**os.environ, URL_VARIABLE: url}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._arguments,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            process_group=0,  # Ctrl-C is the master's; it stops the workers itself
            preexec_fn=die_with_parent(),
        )

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self.process.poll()

    def terminate(self) -> None:
        if self.status is None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait for its end; kill it if it does not come."""
        try:
            self.process.wait(_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.terminate()  # a second signal ends workers at once
            try:
                self.process.wait(_STOPS_AT_ONCE_WITHIN)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
