"""Entry points: tasks, programs and functions that installed packages provide by name.

One wing never names a module of another. `pyproject.toml` lists what each provides, in a group:

- `scattershot.tasks`: a `Task` class or train function, as `[study] task` names it. Other packages
  may add their own.
- `scattershot.programs`: a module to be run by `python -m`.
- `scattershot.functions`: a function that one wing calls from another.

Looking a name up reads the installed packages' metadata (30 to 60 ms the first time) and imports
none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from scattershot_common.errors import ScattershotError

TASKS = "scattershot.tasks"
PROGRAMS = "scattershot.programs"
FUNCTIONS = "scattershot.functions"


@cache
def provided(group: str) -> Mapping[str, str]:
    """Return what the installed packages provide in a group: "module" or "module:name" by name."""
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=group)}


def program(name: str) -> list[str]:
    """Return the command that runs a program: `python -m` and its module.

    Raises:
        ScattershotError: no installed package provides it.
    """
    # safe path: a file in the working folder that is called like a module is not in the way
    return [sys.executable, "-P", "-m", _value(PROGRAMS, name)]


def load_function(name: str) -> Any:
    """Import a function that another wing provides.

    Raises:
        ScattershotError: no installed package provides it, or something it needs is not installed.
    """
    from importlib import import_module

    module, _, attribute = _value(FUNCTIONS, name).partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ScattershotError(f"{name}: {error}; pip install scattershot") from error


def _value(group: str, name: str) -> str:
    try:
        return provided(group)[name]
    except KeyError:
        raise ScattershotError(
            f"no installed package provides {name!r} among the entry points {group}: "
            "pip install scattershot (again, in an old checkout)"
        ) from None
