"""Owns what the activations of a model look like on one batch of examples, layer by layer.

CS231n, "Activation / Gradient distributions per layer", and "ReLU": units that are never active
are dead; tanh and sigmoid units at the ends of their range are saturated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from scattershot_worker.monitors.updates import read, rounded

#: So near to an end of its range, as a part of it, an activation counts as saturated.
_NEAR = 0.015
#: Examples of the batch that are looked at.
EXAMPLES = 64

# the functions of torch by name, each with the module that does the same
_KINDS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "hardtanh": nn.Hardtanh,
    "hardsigmoid": nn.Hardsigmoid,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}
_FUNCTIONS: dict[Any, str] = {
    function: name
    for name in _KINDS
    for owner in (torch, Tensor, functional)
    for function in (getattr(owner, name, None), getattr(owner, name + "_", None))
    if function is not None
}
_RELUS = (nn.ReLU, nn.ReLU6)
_RANGES: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-1, 1),
    nn.Sigmoid: (0, 1),
    nn.Hardtanh: (-1, 1),
    nn.Hardsigmoid: (0, 1),
}
_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# layers whose units are channels, which lie on axis 1, and those whose units are on the last one
_CHANNELS = ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm")
_FEATURES = ("Linear", "LayerNorm", "RMSNorm", "Embedding", "LSTM", "GRU", "RNN", "Attention")
#: Calls of one activation in a forward pass that are seen, at most: a recurrence has one a step.
_REPEATS = 4


def dead(out: Tensor, unit: int) -> Tensor:
    """Return the share of units, which lie on axis `unit`, that are 0 for every example."""
    others = [axis for axis in range(out.dim()) if axis != unit]
    return (out.amax(others) <= 0).mean(dtype=torch.float32)


def saturated(out: Tensor, low: float, high: float) -> Tensor:
    """Return the share of elements that are at the ends of their range."""
    near = (high - low) * (0.5 - _NEAR)
    return ((out - (high + low) / 2).abs() > near).mean(dtype=torch.float32)


def units(layer: nn.Module | None, dimensions: int) -> int:
    """Return the axis of the units in what follows a layer and has so many dimensions.

    >>> units(nn.Conv1d(1, 1, 1), 3), units(nn.Linear(1, 1), 3), units(nn.Conv1d(1, 1, 1), 2)
    (1, 2, 1)
    """
    name = type(layer).__name__
    if any(one in name for one in _CHANNELS):
        return 1
    if any(one in name for one in _FEATURES):
        return dimensions - 1
    return 1 if dimensions in (2, 4, 5) else dimensions - 1


def _figures(kind: type[nn.Module], out: Tensor, unit: int) -> dict[str, Tensor]:
    values = out[:EXAMPLES].float()
    mean = values.mean()
    # not torch.std, whose one pass takes eight times as long on a CPU
    std = torch.linalg.vector_norm(values - mean) / max(values.numel(), 1) ** 0.5
    found = {"mean": mean, "std": std}
    if issubclass(kind, _RELUS):
        found["dead"] = dead(values, unit)
    elif limits := _RANGES.get(kind):
        found["saturated"] = saturated(values, *limits)
    return found


class _Calls(TorchFunctionMode):
    """Tells of every call of torch, before and after it."""

    def __init__(
        self, before: Callable[[], None], after: Callable[[Any, Iterable[Any], Any], None]
    ) -> None:
        super().__init__()
        self._before, self._after = before, after

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        self._before()
        out = func(*args, **given)
        self._after(func, (*args, *given.values()), out)
        return out


class _Seen(NamedTuple):
    """What was seen of one call: scalars by name, and whether a forward called a function."""

    kind: type[nn.Module]
    figures: dict[str, Tensor]
    called: bool


class Activations:
    """Looks at the first batch that a model sees while it is `watched`."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        #: What is looked at before torch's next call, which may change it in place: its name, its
        #: kind, itself, and whether a forward called it as a function.
        self._waiting: tuple[str, type[nn.Module], Tensor, bool] | None = None
        #: How often each name was called in this forward pass.
        self._times: Counter[str] = Counter()
        # what is known of the model that was watched last: the modules that are looked at, the
        # layer of each parameter by the parameter's id, the axis of the units of what was seen,
        # whether it is looked at apart, and whether its forward calls activations as functions
        self._model: nn.Module | None = None
        self._modules: dict[str, nn.Module] = {}
        self._owners: dict[int, str] = {}
        self._layers: dict[str, nn.Module] = {}
        self._units: dict[str, int] = {}
        self._apart, self._calls = False, True
        #: The layer whose parameters were used last.
        self._layer = ""

    @contextmanager
    def watched(
        self, model: nn.Module, given: Mapping[str, Tensor] | None = None
    ) -> Iterator[None]:
        """Look at the outputs of all activations; of linear and conv layers where there are none.

        Modules go by their name, functions that a forward calls by theirs and that of the layer
        with weights before them: "relu after fc1". Random numbers and the outputs stay as they are.
        `given` are the parameters that the model is called with, if they are not its own.
        """
        self._seen = {}
        if model is not self._model or given is not None:
            self._know(model, given or dict(model.named_parameters()))
        with ExitStack() as looking:

            def begin(module: nn.Module, inputs: Any) -> None:
                begun.remove()
                if not self._apart:
                    looking.enter_context(self._looking())

            def end(module: nn.Module, inputs: Any, out: Any) -> None:
                ended.remove()
                if self._apart:
                    with self._looking():
                        model(*inputs)
                looking.close()

            begun = model.register_forward_pre_hook(begin)
            ended = model.register_forward_hook(end)
            try:
                yield
            finally:
                begun.remove()
                ended.remove()
        self._settle()  # a model that is one layer is seen at the very end

    def _know(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        kinds = tuple(_KINDS.values())
        named = [*model.named_modules()]
        self._model, self._calls, self._units, self._layers = model, True, {}, dict(named)
        self._modules = {name: one for name, one in named if isinstance(one, kinds)} or {
            name: one for name, one in named if isinstance(one, _WEIGHTS)
        }
        self._owners = {
            id(one): name.rpartition(".")[0] or name for name, one in parameters.items()
        }
        # torch's attention has a faster path, of other roundings, that it leaves when looked at
        self._apart = any(isinstance(one, nn.MultiheadAttention) for _, one in named)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Look at what is called in here."""
        self._waiting, self._layer = None, ""
        self._times.clear()
        hooks = [one.register_forward_hook(self._hook(name)) for name, one in self._modules.items()]
        calls = _Calls(self._settle, self._called) if self._calls else nullcontext()
        try:
            with calls:
                yield
            self._settle()
        finally:
            for hook in hooks:
                hook.remove()
        self._calls = any(one.called for one in self._seen.values())

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, out: Any) -> None:
            # instead of the function that the module itself has called
            found = (name, type(module), out, False) if isinstance(out, Tensor) else None
            self._waiting = found
            if not self._calls:
                self._settle()

        return look

    def _called(self, function: Any, given: Iterable[Any], out: Any) -> None:
        for one in given:
            if owner := self._owners.get(id(one)):
                self._layer = owner
        name = _FUNCTIONS.get(function)
        if name is not None and isinstance(out, Tensor):
            called = f"{name} after {self._layer}" if self._layer else name
            self._waiting = called, _KINDS[name], out, True

    def _settle(self) -> None:
        if self._waiting is None:
            return
        (name, kind, out, called), self._waiting = self._waiting, None
        if out.dim() < 2:
            return
        self._times[name] += 1
        times = self._times[name]
        if times > _REPEATS:
            return
        if times > 1:
            name = f"{name} ({times})"
        # where only modules are looked at, nothing tells of the layer before: as it was
        unit = self._units.setdefault(name, units(self._layers.get(self._layer), out.dim()))
        self._seen[name] = _Seen(kind, _figures(kind, out.detach(), unit), called)

    def _shown(self) -> dict[str, _Seen]:
        """Return what was seen, of layers with weights where there is nothing else."""
        others = {k: one for k, one in self._seen.items() if not issubclass(one.kind, _WEIGHTS)}
        return others or self._seen

    def figures(self) -> list[Tensor]:
        """Return all numbers that were seen, each a scalar, in the lines' order."""
        return [value for one in self._shown().values() for value in one.figures.values()]

    def lines(self, figures: Sequence[float] | None = None) -> list[dict[str, Any]]:
        """Return a line for every module seen: "name", "kind", "mean", "std", "dead" or so.

        `figures` are the numbers, where they have been read.
        """
        numbers = iter(read(self.figures()) if figures is None else figures)
        return [
            {
                "name": name,
                "kind": one.kind.__name__,
                **{key: rounded(next(numbers)) for key in one.figures},
            }
            for name, one in self._shown().items()
        ]


def scalars(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the largest share of dead and of saturated units that a layer has, where any can."""
    shares = {"dead_relu": "dead", "saturation": "saturated"}
    found = {name: [one[key] for one in lines if key in one] for name, key in shares.items()}
    return {name: max(values) for name, values in found.items() if values}
