"""The import graph of the four packages, read from their source without importing anything.

An import counts wherever it stands: at a module's top, inside a function, under `TYPE_CHECKING`,
or as a string that names a module ("scattershot_common.errors").

`python tests/support/import_graph.py` prints the rooms of each wing by floor.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: The package of each wing, by its folder.
WINGS = {
    "api": "scattershot",
    "common": "scattershot_common",
    "master": "scattershot_master",
    "worker": "scattershot_worker",
}

#: What each node imports.
Graph = Mapping[str, frozenset[str]]


@cache
def sources() -> dict[str, Path]:
    """Return the source file of every module of the four packages, by dotted name."""
    found = {}
    for folder in WINGS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parsed(module: str) -> ast.Module:
    """Return the syntax tree of a module."""
    return ast.parse(sources()[module].read_text())


@cache
def graph() -> Graph:
    """Return the modules that each module imports, its own packages' `__init__` left out."""
    return {module: frozenset(_imports(module)) for module in sources()}


def wing(module: str) -> str:
    """Return the package that a module belongs to."""
    return module.partition(".")[0]


def strings(module: str) -> Iterator[str]:
    """Yield the strings in a module's code, docstrings left out."""
    tree = parsed(module)
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from [node.value] if id(node) not in documentation else []


def _imports(module: str) -> Iterator[str]:
    for name in _named(module):
        target = name
        while target and target not in sources():  # a name in a module, or nothing of ours
            target = target.rpartition(".")[0]
        if target and target != module and not module.startswith(f"{target}."):
            yield target


def _named(module: str) -> Iterator[str]:
    is_package = sources()[module].name == "__init__.py"
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")[: None if is_package else -1] if node.level else []
            base = parts[: len(parts) + 1 - node.level] if node.level else []
            base += [node.module] if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)
    for text in strings(module):
        name = text.partition(":")[0]  # "module:name"
        if name in sources() and name != "scattershot":  # also the project's and a command's name
            yield name


def rooms(package: str) -> Graph:
    """Return the graph of what lies directly in `package`: its folders and single modules.

    >>> rooms("scattershot")["check"]
    frozenset()
    """

    def room(module: str) -> str:
        return module.removeprefix(f"{package}.").partition(".")[0]

    inside = [module for module in graph() if module.startswith(f"{package}.")]
    found: dict[str, set[str]] = {room(module): set() for module in inside}
    for module in inside:
        targets = {room(target) for target in graph()[module] if target.startswith(f"{package}.")}
        found[room(module)] |= targets - {room(module)}
    return {name: frozenset(targets) for name, targets in found.items()}


def circle(edges: Graph) -> list[str]:
    """Return the nodes of one import circle, or nothing where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return [*error.args[1]]
    return []


def floors(edges: Graph) -> list[list[str]]:
    """Return the nodes by floor, the lowest first: each stands above all that it imports."""
    sorter = TopologicalSorter(edges)
    sorter.prepare()
    found = []
    while sorter.is_active():
        ready = sorter.get_ready()
        found.append(sorted(ready))
        sorter.done(*ready)
    return found


if __name__ == "__main__":
    for wing_package in WINGS.values():
        edges = rooms(wing_package)
        print(f"{wing_package}: {len(edges)} rooms")
        if around := circle(edges):
            print("  circle:", " > ".join(around))
            for name in dict.fromkeys(around):
                for source, targets in graph().items():
                    if source.startswith(f"{wing_package}.{name}"):
                        for target in targets:
                            to = target.removeprefix(f"{wing_package}.").partition(".")[0]
                            if to in around and to != name:
                                print("   ", source, "->", target)
            continue
        for height, level in reversed([*enumerate(floors(edges))]):
            print(f"  {height}  {'  '.join(level)}")
