"""What the trials of a child share: settings of the process, variables of the task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from scattershot_common.task.task import Task
from scattershot_worker.child.process_state import ProcessState
from scattershot_worker.training.variables import Variables

Result = TypeVar("Result")

#: Names in a message; more are counted.
_NAMED = 3


class SharedState:
    """The state in which every trial of a task begins."""

    def __init__(self, task: Task | Callable[..., object], process: ProcessState) -> None:
        """Record it as it is once the task and its data are loaded."""
        self._process, self._variables = process, Variables(task)

    def changes(self) -> list[str]:
        """Return the names of what is no longer as recorded."""
        return [*self._process.changes(), *self._variables.changes()]

    def restore(self) -> list[str]:
        """Put it back; return the names of what cannot be."""
        return [*self._process.restore(), *self._variables.restore()]

    def watch(self, make: Callable[[], Result]) -> tuple[Result, list[str]]:
        """Return what `make` returns, and the names of what it changes.

        What only the first import of a library changes, such as the environment, is recorded.
        """
        imported = len(sys.modules)
        result, changes = make(), self.changes()
        if len(sys.modules) > imported and changes == self._process.changes():
            process = ProcessState()
            self.restore()
            del result  # a large model has the memory to itself
            result, changes = make(), self.changes()
            if not changes:
                process.restore()
                self._process = process
        return result, changes

    def accept_data(self) -> list[str]:
        """Keep data that a trial has loaded for the next ones; return the variables' names."""
        return self._variables.accept_data()


def listed(names: Sequence[str]) -> str:
    """Return names as text.

    >>> listed(["self.a", "self.b"])
    'self.a, self.b'
    """
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
