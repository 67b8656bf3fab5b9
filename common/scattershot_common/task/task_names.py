"""Names of tasks in study files: installed ones, and users' own, found without importing them."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from scattershot_common.entry_points import TASKS, provided
from scattershot_common.problems import nearest, show


def named_tasks() -> Mapping[str, str]:
    """Return the tasks that installed packages provide: "module:Name" by the name users write."""
    return provided(TASKS)


def task_problem(task: str, folder: Path) -> str:
    """Return why the study file in `folder` cannot name `task`, or "" if it can.

    The module is searched for in `folder`, the working folder and sys.path, in this order, and
    nothing is imported: a master needs neither torch nor the other imports of the user's module,
    and no code of a parent package runs. Names that a module makes at run time (a star import,
    `__getattr__`) are assumed to exist.
    """
    module, colon, name = task.partition(":")
    dotted = module.split(".")
    if not colon and task in named_tasks():
        return ""
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in dotted)):
        return (
            f"must be an installed task ({', '.join(named_tasks())}) or your own as "
            f'"package.module:Name" (found {show(task)}){nearest(task, named_tasks())}'
        )
    folders = list(dict.fromkeys([str(folder.resolve()), str(Path.cwd())]))
    try:
        spec = _find(dotted, [*folders, *sys.path])
    except ModuleNotFoundError as error:
        return f"{error} (looked in {', '.join(folders)} and {len(sys.path)} folders of sys.path)"
    if spec.origin is None:
        return f"{module} is a folder without __init__.py; name the module in it that has {name}"
    if not spec.origin.endswith(".py"):
        return ""  # compiled: only an import would tell
    try:
        loader: Any = spec.loader
        names = set(_names(ast.parse(loader.get_data(spec.origin)).body))
    except (SyntaxError, ValueError) as error:
        line = f" at line {error.lineno}" if isinstance(error, SyntaxError) else ""
        return f"{spec.origin} is not valid Python{line}: {error.args[0]}"
    if names & {name, "*", "__getattr__"}:
        return ""
    return f"{spec.origin} defines no {name}{nearest(name, names)}"


def _find(dotted: Sequence[str], path: Sequence[str]) -> ModuleSpec:
    """Return the spec of a module as an import with `path` would find it, without importing.

    Raises ModuleNotFoundError with a line for the user.
    """
    spec = PathFinder.find_spec(dotted[0], path) or _by_other_finders(dotted[0])
    if spec is None:
        raise ModuleNotFoundError(f"there is no module {dotted[0]}")
    for depth, part in enumerate(dotted[1:], 1):
        package = ".".join(dotted[:depth])
        folders = spec.submodule_search_locations
        if folders is None:
            raise ModuleNotFoundError(f"{package} is a module, not a package: {spec.origin}")
        spec = PathFinder.find_spec(part, list(folders))
        if spec is None:
            raise ModuleNotFoundError(f"the package {package} has no module {part}")
    return spec


def _by_other_finders(name: str) -> ModuleSpec | None:
    """Ask the other finders (an editable installation has one); none imports a top-level name."""
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # __main__ and its like have no spec
        return None


def _names(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements bind at a module's top level, "*" for a star import."""
    for statement in body:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Import(names=aliases):
                yield from (alias.asname or alias.name.partition(".")[0] for alias in aliases)
            case ast.ImportFrom(names=aliases):
                yield from (alias.asname or alias.name for alias in aliases)
            case ast.Assign(targets=targets):
                yield from _bound(targets)
            case ast.AnnAssign(target=target, value=ast.expr()):
                yield from _bound([target])
            case _:  # if, try, with, for: their bodies are still at the top level
                for child in ast.iter_child_nodes(statement):
                    body = [child] if isinstance(child, ast.stmt) else getattr(child, "body", [])
                    yield from _names(body if isinstance(body, list) else [])


def _bound(targets: Sequence[ast.expr]) -> Iterator[str]:
    for target in targets:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
