"""A study's ledger: appending events to `ledger.jsonl`, and reading the state they add up to."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scattershot_common.errors import ScattershotError
from scattershot_common.local_files import lock
from scattershot_master.state.events import (
    EpochReported,
    LedgerEvent,
    RungSettled,
    StageOpened,
    StudyBegun,
    write,
)
from scattershot_master.state.study_state import StudyState

#: The ledger's name in a study's folder.
LEDGER = "ledger.jsonl"
_SYNC_EVERY = 2.0
#: Events that Redis does not have: they are on the disk before anything follows from them.
_SYNC_AT_ONCE = (StudyBegun, StageOpened, RungSettled)


class Ledger:
    """A study's ledger, open for writing by the one master that holds its lock.

    Appended events are written together by `commit`, once per turn of the master's loop: they
    survive the master's death from then on, and a power cut after at most two seconds more. What
    a power cut takes away is read again from the event stream, whose cursor the ledger holds, or
    decided again from what is read.
    """

    def __init__(self, folder: Path, *, wait_s: float = 0.0) -> None:
        """Open or create the ledger of the study in `folder`, and apply its events.

        A torn last line, left by a kill in the middle of a write, is cut off. Another master that
        holds the lock has `wait_s` seconds to give it back.

        Raises:
            ScattershotError: another master has it open, or the folder cannot be written.
        """
        self.folder = folder
        self.path = folder / LEDGER
        self.state = StudyState()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab+")
        except OSError as error:
            raise _refused(folder, error) from error
        end = time.monotonic() + wait_s
        while not self._locked():
            if time.monotonic() > end:
                self._file.close()
                raise ScattershotError(
                    f"another master runs the study in {folder}; stop it first "
                    f"(scattershot stop {folder}), or take over with scattershot master --take-over"
                )
            time.sleep(0.1)
        #: The stream's id up to which the events are on the disk, safe from a power cut.
        self.synced_cursor = ""
        self._pending: list[bytes] = []
        self._unsynced_since: float | None = None
        self._urgent = False
        try:
            self._fold()
        except BaseException:
            self._file.close()
            raise

    def _locked(self) -> bool:
        try:
            lock(self._file)
        except OSError:
            return False
        return True

    def _fold(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        with _uncollected():
            lines, sound = parse(data)
            self.state.apply_lines(lines)
        if sound < len(data):
            self._file.truncate(sound)

    def append(self, event: LedgerEvent) -> None:
        """Apply an event to the state; it is written, with the time, at the next `commit`."""
        if not isinstance(event, EpochReported):
            event = event._replace(at=round(time.time(), 3))
        self._pending.append(encode(event))
        self._urgent |= isinstance(event, _SYNC_AT_ONCE)
        self.state.apply(event)

    def commit(self, *, sync: bool = False) -> None:
        """Write what was appended; after it, the events survive this process.

        Raises:
            ScattershotError: the disk refuses. Nothing that was acted upon is lost.
        """
        try:
            if self._pending:
                data, self._pending = b"".join(self._pending), []
                self._file.write(data)
                self._file.flush()
                self._unsynced_since = self._unsynced_since or time.monotonic()
            since = self._unsynced_since
            if since is not None and (
                sync or self._urgent or time.monotonic() - since > _SYNC_EVERY
            ):
                os.fsync(self._file.fileno())
                self._unsynced_since, self._urgent = None, False
                self.synced_cursor = self.state.cursor
        except OSError as error:
            raise _refused(self.path, error) from error

    def close(self) -> None:
        """Write what is left and give the lock back."""
        try:
            self.commit(sync=True)
        finally:
            with contextlib.suppress(OSError):
                self._file.close()


def encode(event: LedgerEvent) -> bytes:
    """Return an event's line of the ledger, its newline included."""
    return json.dumps(write(event), separators=(",", ":")).encode() + b"\n"


def parse(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return a ledger's lines, each an event for `events.read`, and how many bytes are sound.

    >>> parse(b'{"e":"kill","t":1}\\n{"e":"ki')
    ([{'e': 'kill', 't': 1}], 19)

    Raises:
        ScattershotError: a line in the middle is damaged; says which.
    """
    sound = data.rfind(b"\n") + 1
    lines = data[:sound].split(b"\n")[:-1]
    with contextlib.suppress(ValueError):
        # one call for all lines is several times as fast
        events = json.loads(b"[" + b",".join(lines) + b"]")
        if len(events) == len(lines) and all(map(_is_event, events)):
            return events, sound
    events = []
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
        if len(events) == number and _is_event(events[-1]):
            continue
        if number == len(lines):  # torn in a way that left a newline behind
            return events[: number - 1], sound - len(line) - 1
        raise ScattershotError(
            f"line {number} of {LEDGER} is damaged; restore the file from a backup, or cut "
            "it before that line: what is missing will be trained again"
        )
    return events, sound


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Turn the garbage collector off: all that is made stays, and it took a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _is_event(value: object) -> bool:
    return isinstance(value, dict) and "e" in value


def read(folder: Path) -> StudyState:
    """Return the state of the study in `folder`, without a lock and without touching anything.

    Raises:
        ScattershotError: there is no study in it.
    """
    try:
        data = (folder / LEDGER).read_bytes()
    except OSError:
        raise ScattershotError(f"there is no study in {folder} ({LEDGER} is missing)") from None
    state = StudyState()
    with _uncollected():
        state.apply_lines(parse(data)[0])
    if not state.settings.recorded:
        raise ScattershotError(f"the study in {folder} has not begun: its {LEDGER} is empty")
    return state


def _refused(path: Path, error: OSError) -> ScattershotError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ScattershotError(
            f"the disk is full: {path} cannot be written; free some space and run the same "
            "command again, it goes on where it was"
        )
    return ScattershotError(f"{path} cannot be written: {error.strerror}")
