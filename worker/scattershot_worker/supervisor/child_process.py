"""Owns the supervisor's end of the warm child: its start, the line to it, its end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scattershot_common.entry_points import program
from scattershot_common.processes import die_with_parent
from scattershot_worker.child.main import SETTINGS, ChildSettings

#: For glibc's malloc: keep what is freed, up to 128 MiB, as every step asks for as much again.
#: Given back to the kernel, each page costs a fault when it is used anew.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


@dataclass
class ChildProcess:
    """The process that trains, and the line to it (JSON lines both ways)."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    #: Attempts that it has been given or has taken.
    served: int = 0
    buffer: bytes = b""

    @classmethod
    def spawn(cls, settings: ChildSettings, environment: Mapping[str, str]) -> ChildProcess:
        """Start a child; it says `ready` once it has imported torch."""
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [*program("worker-child"), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**MALLOC, **os.environ, **environment, SETTINGS: settings.to_json()},
            process_group=0,
            preexec_fn=die_with_parent(signal.SIGKILL),
        )
        theirs.close()
        return cls(process, ours)

    def tell(self, **message: object) -> None:
        """Send the child a message."""
        with contextlib.suppress(OSError):  # a dead child is noticed where it is waited for
            self.line.sendall((json.dumps(message) + "\n").encode())

    def hear(self, timeout: float) -> list[dict[str, Any]] | None:
        """Return the messages that came within `timeout` seconds, or None if the child died."""
        # Looked at first: what it said before it died is still read. The line may stay open
        # without it, in processes that it forked.
        dead = self.process.poll() is not None
        if not select.select([self.line], [], [], 0 if dead else timeout)[0]:
            return None if dead else []
        try:
            data = self.line.recv(65536)
        except OSError:
            data = b""
        if not data:
            return None
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [json.loads(text) for text in lines]

    def kill(self) -> None:
        """End the process at once, and whatever it has started: that may hang as well."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> int:
        """End the process, gently if it lives; return its exit status."""
        self.line.close()
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
