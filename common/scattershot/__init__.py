"""The face of scattershot: what a user's own code imports. Never imports torch.

    import scattershot as ss

    class Flowers(ss.Task):
        def data(self): return ss.Data(train=(x, y), val=(x_val, y_val), test=(x_test, y_test))
        def model(self, params): return torch.nn.Sequential(...)
"""

from scattershot.errors import ScattershotError, TaskError
from scattershot.task import Data, Task, TrialHandle

__all__ = ["Data", "ScattershotError", "Task", "TaskError", "TrialHandle"]
