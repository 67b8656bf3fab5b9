"""Owns what the activations of a model look like on one batch of examples, module by module.

CS231n, "Activation / Gradient distributions per layer", and "ReLU": units that are never active
are dead; tanh and sigmoid units at the ends of their range are saturated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from scattershot_worker.monitors.updates import rounded

#: So near to an end of its range, as a part of it, an activation counts as saturated.
_NEAR = 0.015
#: Examples of the batch that are looked at.
EXAMPLES = 128


def _bounds(low: float, high: float) -> Callable[[Tensor], Tensor]:
    near = (high - low) * _NEAR
    return lambda out: ((out < low + near) | (out > high - near)).float().mean()


_SATURATION: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Tanh: _bounds(-1, 1),
    nn.Sigmoid: _bounds(0, 1),
    nn.Hardtanh: _bounds(-1, 1),
    nn.Hardsigmoid: _bounds(0, 1),
}
_RELUS = (nn.ReLU, nn.ReLU6)
_OTHERS = (nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus)
_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def dead(out: Tensor) -> Tensor:
    """Return the share of units that are 0 for every example; units are channels or features."""
    unit = 1 if out.dim() in (2, 4, 5) else out.dim() - 1
    others = [axis for axis in range(out.dim()) if axis != unit]
    return (out.amax(others) <= 0).float().mean()


class Activations:
    """Looks at the first batch that a model sees while it is `watched`."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, dict[str, Tensor]]] = {}

    @contextmanager
    def watched(
        self, model: nn.Module, given: Mapping[str, Tensor] | None = None
    ) -> Iterator[None]:
        """Look at the outputs of all activations; of linear and conv layers where none is a module.

        Random numbers and the outputs stay as they are.
        """
        self._seen = {}
        kinds: tuple[type[nn.Module], ...] = (*_RELUS, *_SATURATION, *_OTHERS)
        modules = [(name, one) for name, one in model.named_modules() if isinstance(one, kinds)]
        if not modules:
            modules = [(n, one) for n, one in model.named_modules() if isinstance(one, _WEIGHTS)]
        hooks = [one.register_forward_hook(self._hook(name)) for name, one in modules]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        @torch.no_grad()
        def look(module: nn.Module, inputs: Any, out: Any) -> None:
            if name in self._seen or not isinstance(out, Tensor) or out.dim() < 2:
                return  # a module that is used twice is seen once
            values = out.detach()[:EXAMPLES]
            std, mean = torch.std_mean(values.float(), correction=0)
            found = {"mean": mean, "std": std}
            if isinstance(module, _RELUS):
                found["dead"] = dead(values)
            elif saturation := _SATURATION.get(type(module)):
                found["saturated"] = saturation(values)
            self._seen[name] = (type(module).__name__, found)

        return look

    def figures(self) -> list[Tensor]:
        """Return all numbers that were seen, each a scalar, in the lines' order."""
        return [value for _, found in self._seen.values() for value in found.values()]

    def lines(self, figures: Sequence[float] | None = None) -> list[dict[str, Any]]:
        """Return a line for every module seen: "name", "kind", "mean", "std", "dead" or so.

        `figures` are the numbers, where they have been read.
        """
        if figures is None:
            tensors = self.figures()
            figures = torch.stack(tensors).tolist() if tensors else []
        numbers = iter(figures)
        return [
            {"name": name, "kind": kind, **{key: rounded(next(numbers)) for key in found}}
            for name, (kind, found) in self._seen.items()
        ]


def scalars(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the largest share of dead and of saturated units that a layer has, where any can."""
    shares = {"dead_relu": "dead", "saturation": "saturated"}
    found = {name: [one[key] for one in lines if key in one] for name, key in shares.items()}
    return {name: max(values) for name, values in found.items() if values}
