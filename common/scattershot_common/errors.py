"""Errors meant for the user: one line that says what is wrong and what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable


class ScattershotError(Exception):
    """An error with a message for the user. The commands print it without a traceback, exit 1."""

    exit_code = 1


class StudyFileError(ScattershotError):
    """The study file, a flag or the environment is wrong: nothing was started, exit 2."""

    exit_code = 2


class CheckpointError(ScattershotError):
    """A checkpoint cannot be read or written: torn, altered, missing, or the disk refused it."""


class StoreUnreachable(CheckpointError):
    """The object store does not answer at present; whether the checkpoint is good is unknown."""


class TaskError(ScattershotError):
    """The task cannot be loaded or lacks its data: every trial of the study would fail."""


def exit_on_error(command: Callable[[], object]) -> None:
    """Run a command; an error meant for the user becomes one line, without a traceback."""
    try:
        command()
    except ScattershotError as error:
        print(f"scattershot: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
