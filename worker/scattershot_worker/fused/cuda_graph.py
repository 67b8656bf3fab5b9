"""Owns the step as a device's graph: on a GPU all its kernels are launched at once.

A graph works on fixed addresses. Weights and buffers are where they are; what changes from step to
step is copied into places of the graph's own. On a CPU there is nothing to gain; `Recorded` stands
in for a graph there, so that the same code is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch

from scattershot_worker.fused.program import Inputs, Places, Seen, Step

#: Steps on copies before a graph is captured: libraries choose their kernels in the first ones.
_WARM_UP = 3


class Graph(Protocol):
    """What can be captured once and replayed."""

    def capture(self, work: Callable[[], None]) -> None:
        """Take down what `work` does on the device, without its taking effect."""

    def replay(self) -> None:
        """Do it."""


class CudaGraph:
    """A CUDA graph."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()

    def capture(self, work: Callable[[], None]) -> None:
        """Capture the kernels that `work` launches."""
        with torch.cuda.graph(self._graph):
            work()

    def replay(self) -> None:
        """Launch them."""
        self._graph.replay()


class Recorded:
    """A graph for devices that have none: it does the work again."""

    def __init__(self) -> None:
        self._work: Callable[[], None] = lambda: None

    def capture(self, work: Callable[[], None]) -> None:
        """Keep the work."""
        self._work = work

    def replay(self) -> None:
        """Do the work."""
        self._work()


class Replay:
    """A step on given weights and buffers, captured once."""

    def __init__(self, step: Step, graph: Graph, places: Places, inputs: Inputs) -> None:
        self._graph = graph
        self._address = _address(places)
        self._inputs = cast(Inputs, tuple(one.clone() for one in inputs))
        self._seen: Seen | None = None
        for _ in range(_WARM_UP):
            step(places.clones(), self._inputs)

        def work() -> None:
            self._seen = step(places, self._inputs)

        graph.capture(work)

    def fits(self, places: Places) -> bool:
        """Return whether these still lie where they were captured."""
        return _address(places) == self._address

    def __call__(self, inputs: Inputs) -> Seen:
        """Do the step on these inputs; what is returned is overwritten by the next call."""
        for place, one in zip(self._inputs, inputs, strict=True):
            place.copy_(one)
        self._graph.replay()
        assert self._seen is not None
        return self._seen


def _address(places: Places) -> list[int]:
    return [one.data_ptr() for one in places.all()]
