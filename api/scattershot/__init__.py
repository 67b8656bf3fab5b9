"""Public names of scattershot, for `import scattershot as ss`; each is loaded on first use.

`ss.Task` and `ss.Data` bring a model (docs/own-tasks.md has examples); `ss.TrialHandle` annotates
the argument of a train function; `ss.check` checks a task before it is searched. Importing this
package never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scattershot.check import check
    from scattershot_common.errors import ScattershotError, TaskError
    from scattershot_common.task.check_result import CheckResult
    from scattershot_common.task.task import Data, Task, TrialHandle

__all__ = [
    "CheckResult",
    "Data",
    "ScattershotError",
    "Task",
    "TaskError",
    "TrialHandle",
    "check",
]

#: The module that has each public name.
_HOMES = {
    "CheckResult": "scattershot_common.task.check_result",
    "Data": "scattershot_common.task.task",
    "ScattershotError": "scattershot_common.errors",
    "Task": "scattershot_common.task.task",
    "TaskError": "scattershot_common.errors",
    "TrialHandle": "scattershot_common.task.task",
    "check": "scattershot.check",
}


if not TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        """Load a public name on its first use."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
