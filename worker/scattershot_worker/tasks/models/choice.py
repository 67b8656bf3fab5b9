"""Owns how the hyperparameter `model` becomes one of a task's networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from scattershot_common.errors import TaskError
from scattershot_common.problems import nearest

Model = TypeVar("Model")


def choose(models: Mapping[str, Model], params: Mapping[str, Any], default: str) -> Model:
    """Return the entry of `models` that `params["model"]` names.

    Raises:
        TaskError: there is none of that name; says which there are.
    """
    name = str(params.get("model", default))
    if name not in models:
        there = f"there are {', '.join(models)}{nearest(name, models)}"
        raise TaskError(f"no model is called {name!r} here; {there}")
    return models[name]
