"""The face of scattershot: what a user's own code imports, as `import scattershot as ss`.

`ss.Task` and `ss.Data` bring a model (docs/own-tasks.md has examples); `ss.TrialHandle` annotates
the argument of a train function; `ss.check` looks at a task before it is searched. Never imports
torch.
"""

from scattershot.checking import check
from scattershot.checks import CheckResult
from scattershot.errors import ScattershotError, TaskError
from scattershot.task import Data, Task, TrialHandle

__all__ = [
    "CheckResult",
    "Data",
    "ScattershotError",
    "Task",
    "TaskError",
    "TrialHandle",
    "check",
]
