"""Generators of random numbers that loaders, data sets and tasks have of their own.

They go on from trial to trial in a process that keeps the data, and are not part of a checkpoint.
So they are seeded, as the global ones are, from the trial's seed and the epoch.
"""

from __future__ import annotations

import functools
import logging
import random
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from scattershot_common.seeds import derive
from scattershot_worker.training.variables import user_modules

log = logging.getLogger("scattershot.worker")

#: How deep an object is searched, and how many entries of a container.
_DEPTH, _ENTRIES = 8, 200
#: Objects that are searched in all.
_OBJECTS = 20_000
_OPAQUE = (
    *(str, bytes, int, float, complex, bool, type(None)),
    *(Tensor, np.ndarray, type, types.ModuleType),
)
#: The global generators, which are seeded anyway.
_GLOBAL = {
    id(generator)
    for generator in (
        torch.default_generator,
        np.random.mtrand._rand,
        getattr(random, "_inst", None),
    )
}
#: Types of which a warning was logged.
_warned: set[type] = set()


class OwnGenerators:
    """The generators and loaders that are found in objects."""

    def __init__(self, *roots: object) -> None:
        """Search the objects, and the globals of those that are modules."""
        search = _Search()
        for root in roots:
            search.visit("", vars(root) if isinstance(root, types.ModuleType) else root)
        self._generators, self._loaders = search.generators, search.loaders

    @classmethod
    def of_task(cls, task: object = None, model: nn.Module | None = None) -> OwnGenerators:
        """Return those of a task, its model and the user's modules."""
        layers = [] if model is None else [vars(module) for module in model.modules()]
        modules = user_modules()
        return cls(task, layers, *(modules[name] for name in sorted(modules)))

    def seed(self, seed: int) -> None:
        """Seed the generators by where they were found, and start persistent workers anew.

        Such workers have copies of the data set whose generators nothing reaches.
        """
        for path, generator in self._generators:
            _seed(generator, derive(seed, "own", path))
        for loader in self._loaders:
            iterator: Any = getattr(loader, "_iterator", None)
            if loader.persistent_workers and iterator is not None:
                iterator._shutdown_workers()
                loader._iterator = None


class _Search:
    """A walk through objects."""

    def __init__(self) -> None:
        self.generators: list[tuple[str, Any]] = []
        self.loaders: list[DataLoader[Any]] = []
        self._visited: dict[int, object] = {}

    def visit(self, path: str, value: Any, depth: int = 0) -> None:
        """Search a value, which was found at `path`: names of attributes, keys and places."""
        if isinstance(value, _OPAQUE) or id(value) in self._visited or id(value) in _GLOBAL:
            return
        if depth > _DEPTH or len(self._visited) >= _OBJECTS:
            return
        self._visited[id(value)] = value
        if isinstance(value, _GENERATORS):
            self.generators.append((path, value))
            return
        if isinstance(value, DataLoader):
            self.loaders.append(value)
        for name, part in _parts(value, depth):
            self.visit(f"{path}.{name}", part, depth + 1)


def _parts(value: Any, depth: int) -> Iterable[tuple[object, Any]]:
    """Return what an object consists of, each part with a name."""
    if isinstance(value, dict):
        # a module's globals have more entries
        return [*value.items()] if len(value) <= _ENTRIES or not depth else ()
    if isinstance(value, list | tuple):
        return enumerate(value) if len(value) <= _ENTRIES else ()
    if isinstance(value, functools.partial):
        return enumerate([value.func, *value.args, *value.keywords.values()])
    if isinstance(value, types.MethodType):
        return [("self", value.__self__)]
    if isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        return [
            (name, cell.cell_contents)
            for name, cell in zip(names, value.__closure__ or (), strict=True)
            if cell != types.CellType()  # assigned by now
        ]
    if isinstance(value, nn.Module):
        return ()
    attributes = getattr(value, "__dict__", None)
    return [*attributes.items()] if isinstance(attributes, dict) else ()


def _seed_bits(generator: np.random.BitGenerator, seed: int) -> None:
    make: Callable[..., Any] = type(generator)
    generator.state = make(seed).state


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.BitGenerator):
        _seed_bits(generator, seed)
    elif isinstance(generator, np.random.Generator):
        _seed_bits(generator.bit_generator, seed)
    elif isinstance(generator, np.random.RandomState):
        generator.seed(seed % 2**32)
    elif isinstance(generator, random.SystemRandom):
        if type(generator) not in _warned:
            _warned.add(type(generator))
            log.warning(
                "a %s cannot be seeded: no two trainings of a trial are alike; use random.Random()",
                type(generator).__name__,
            )
    else:
        generator.seed(seed)


_GENERATORS = (
    torch.Generator,
    np.random.Generator,
    np.random.BitGenerator,
    np.random.RandomState,
    random.Random,
)
