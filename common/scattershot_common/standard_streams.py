"""Standard streams of a command: any encoding, closed ones, full disks, broken pipes."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


class _Stream(io.TextIOWrapper):
    """An output stream that goes to os.devnull after the first error, which it keeps."""

    failure: OSError | None = None
    #: Whether the command goes on without output; else the error is raised, once.
    tolerant = False

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what is still in the buffer goes there as well
            os.close(nowhere)
        first, self.failure = self.failure is None, self.failure or error
        if first and not self.tolerant:
            raise error


def go_on_without_output() -> None:
    """Let the command go on where its output cannot be written: it does more than print."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, _Stream):
            stream.tolerant = True


@contextmanager
def command_streams() -> Iterator[None]:
    """Let a command run with streams that can be written to, and exit as its output went.

    Characters that the encoding lacks are written as "?". A reader that has left (`| head`) ends
    the command without a word; another error, as of a full disk, does with one line and exit 1.
    """
    _open_closed_streams()
    _check_working_folder()
    captured = sys.stdout is not sys.__stdout__
    if captured:
        yield
        return
    out = sys.stdout = _protected(sys.stdout, "replace")
    errors = sys.stderr = _protected(sys.stderr, sys.stderr.errors or "backslashreplace")
    errors.tolerant = True  # there is nowhere to tell it
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if out.failure is not error:
            raise
    except SystemExit:
        with suppress(OSError):
            out.flush()
        if out.failure is None or out.tolerant:
            raise
    failure = out.failure
    if failure is None or failure.errno in (errno.EPIPE, errno.EIO):
        return
    print(f"scattershot: the output cannot be written: {failure.strerror}", file=sys.stderr)
    if not out.tolerant:
        sys.exit(1)


def _protected(stream: TextIO, errors: str) -> _Stream:
    return _Stream(
        stream.buffer,
        encoding=stream.encoding,
        errors=errors,
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=getattr(stream, "write_through", False),
    )


def _open_closed_streams() -> None:
    """Open streams that the command was started without, so that no file takes their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode))


def _check_working_folder() -> None:
    try:
        os.getcwd()
    except OSError:
        print("scattershot: the working folder is gone: cd to one that is there", file=sys.stderr)
        sys.exit(2)
