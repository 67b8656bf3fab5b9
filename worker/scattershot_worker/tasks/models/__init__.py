"""Networks of the built-in tasks, by the value of the hyperparameter `model`.

To add one, write a function like those in `vision` or `text` and enter it in a table below.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from scattershot_common.errors import TaskError
from scattershot_common.problems import nearest
from scattershot_worker.tasks.models.text import gru, text_cnn, transformer
from scattershot_worker.tasks.models.vision import cnn, linear, mlp, resnet

#: Each takes an example's shape, the number of outputs and the hyperparameters.
TABULAR = {"linear": linear, "mlp": mlp}
IMAGES = {**TABULAR, "cnn": cnn, "resnet": resnet}
TEXT = {"cnn": text_cnn, "gru": gru, "transformer": transformer}

Model = TypeVar("Model")


def choose(models: Mapping[str, Model], params: Mapping[str, Any], default: str) -> Model:
    """Return the entry of `models` that `params["model"]` names.

    Raises:
        TaskError: there is none of that name; lists those that there are.
    """
    name = str(params.get("model", default))
    if name not in models:
        known = f"there are {', '.join(models)}{nearest(name, models)}"
        raise TaskError(f"no model is called {name!r} here; {known}")
    return models[name]
