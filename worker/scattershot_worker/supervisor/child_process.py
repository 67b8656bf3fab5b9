"""The child process as its supervisor has it: started, written to, read, replaced, ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from scattershot_common.entry_points import program
from scattershot_common.machine import die_with_parent
from scattershot_worker.child_messages import Message, decode, encode
from scattershot_worker.child_settings import SETTINGS, UNUSABLE, ChildSettings
from scattershot_worker.supervisor.descendants import end_descendants, reap_orphans

#: For glibc's malloc: keep what is freed, up to 128 MiB, as every step asks for as much again.
#: Given back to the kernel, each page costs a fault when it is used anew.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "MALLOC_TOP_PAD_": str(16 << 20),
}


@dataclass
class ChildProcess:
    """The process that trains, and the line to it (`child_messages`, both ways)."""

    process: subprocess.Popen[bytes]
    line: socket.socket
    #: Attempts that it has been given or has claimed.
    served: int = 0
    buffer: bytes = b""

    @classmethod
    def spawn(cls, settings: ChildSettings, environment: Mapping[str, str]) -> ChildProcess:
        """Start a child; it sends `Ready` once it has imported torch."""
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

    def send(self, message: Message) -> None:
        """Send the child a message."""
        with contextlib.suppress(OSError):  # a dead child is noticed where it is waited for
            self.line.sendall(encode(message))

    def receive(self, timeout: float) -> list[Message] | None:
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
        return [decode(line) for line in lines]

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


class WarmChild:
    """The one child of a supervisor: replaced when it dies, and when it has served long."""

    def __init__(self, settings: ChildSettings, environment: Mapping[str, str]) -> None:
        self._settings, self._environment = settings, environment
        self.current: ChildProcess | None = None
        self._successor: ChildProcess | None = None

    @property
    def unusable(self) -> bool:
        """Whether the child has ended with the word that no other could begin either."""
        return self.current is not None and self.current.process.poll() == UNUSABLE

    def ready(self) -> ChildProcess:
        """Return a living child, a new one if there is none."""
        while self.current is None or self.current.process.poll() is not None:
            if self.current is not None:
                self.current.line.close()
            self.current = self._successor or self._spawn()
            self._successor = None
        return self.current

    def replace(self) -> int:
        """Start the next child in place of one that has died; return that one's exit status."""
        assert self.current is not None
        status = self.current.end()
        if status != UNUSABLE:
            self.current = None
            self.ready()
        self._end_what_is_left()
        return status

    def recycle(self) -> None:
        """Replace a child that has served long, so that leaks of a user's code do not add up.

        Called after each further attempt: the successor imports torch while the old one goes on,
        and takes over once it is ready.
        """
        if self._successor is None:
            self._successor = self._spawn()
            return
        messages = self._successor.receive(0.0)  # the first one is that it is ready
        if messages is None:
            self._successor.end()
            self._successor = None
        elif messages:
            old, self.current, self._successor = self.current, self._successor, None
            if old is not None:
                old.end()
            self._end_what_is_left()

    def kill(self) -> None:
        """End the child at once, and whatever it has started."""
        for child in self._living:
            child.kill()
        end_descendants()

    def end(self) -> None:
        """End the child and its successor, gently, and whatever they have started."""
        for child in self._living:
            child.end()
        self.current = self._successor = None
        end_descendants()

    def reap(self) -> None:
        """Reap processes that a child has left behind and that have ended since."""
        reap_orphans([child.process.pid for child in self._living])

    @property
    def _living(self) -> list[ChildProcess]:
        return [*filter(None, (self.current, self._successor))]

    def _end_what_is_left(self) -> None:
        """End what former children have started: daemons, pools, programs."""
        end_descendants([child.process.pid for child in self._living])

    def _spawn(self) -> ChildProcess:
        return ChildProcess.spawn(self._settings, self._environment)
