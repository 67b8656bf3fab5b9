"""The face of scattershot: what a user's own code imports, as `import scattershot as ss`.

`ss.Task` and `ss.Data` bring a model (docs/own-tasks.md has examples); `ss.TrialHandle` annotates
the argument of a train function. Never imports torch.
"""

from scattershot.errors import ScattershotError, TaskError
from scattershot.task import Data, Task, TrialHandle

__all__ = ["Data", "ScattershotError", "Task", "TaskError", "TrialHandle"]
