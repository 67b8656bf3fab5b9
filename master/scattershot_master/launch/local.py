"""Owns the workers that `scattershot run` starts on its own machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from scattershot_common.bus.connection import URL_VARIABLE
from scattershot_common.entry_points import program
from scattershot_common.errors import StudyFileError
from scattershot_common.processes import die_with_parent

#: How an error that is meant for the user begins in the log.
_ERROR = "scattershot: "


class LocalWorkers:
    """A worker command with `slots` slots, its output in `log`; it starts dead slots again."""

    def __init__(
        self,
        url: str,
        *,
        slots: int,
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
        self._command = program("worker")
        self._command += ["--out", str(root), "--device", device, "--slots", str(slots)]
        self._command += ["--threads", str(threads), "--lanes", lanes, "--with-parent"]
        for path in paths:
            self._command += ["--path", str(path)]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            env={**os.environ, URL_VARIABLE: self._url},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            process_group=0,  # Ctrl-C is the master's; it stops the workers itself
            preexec_fn=die_with_parent(),
        )

    def tend(self) -> None:
        """Start the command again if it has died.

        Raises:
            StudyFileError: it was started wrongly, and always will be.
        """
        status = self._process.poll()
        if status == StudyFileError.exit_code:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            said = [line for line in lines if line.startswith(_ERROR)] or ["no word"]
            raise StudyFileError(f"the workers do not start: {said[-1].removeprefix(_ERROR)}")
        if status is not None:
            self._process = self._start()

    @property
    def pid(self) -> int:
        """The process id of the worker command."""
        return self._process.pid

    def stop(self, wait_s: float = 20.0) -> None:
        """Let the workers give their trials back and end; those that do not are killed."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._process.terminate()  # a second signal ends them at once
                try:
                    self._process.wait(5)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
        self._log.close()
