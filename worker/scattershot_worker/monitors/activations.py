"""Statistics of a model's activations on one batch of examples, layer by layer.

CS231n, "Activation / Gradient distributions per layer", and "ReLU": units that are never active
are dead; tanh and sigmoid units at the ends of their range are saturated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from scattershot_worker.monitors.updates import read_scalars, rounded

#: An activation is saturated if it is this near to an end of its range, as a share of the range.
_NEAR = 0.015
#: Examples of a batch whose activations count, at most.
EXAMPLES = 64

# activation functions of torch by name, each with its module
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
# layers whose units are channels (axis 1), and layers whose units are on the last axis
_CHANNELS = ("Conv", "BatchNorm", "InstanceNorm", "GroupNorm")
_FEATURES = ("Linear", "LayerNorm", "RMSNorm", "Embedding", "LSTM", "GRU", "RNN", "Attention")
#: Calls of one activation that count in a forward pass, at most: a recurrence has one per step.
_MAX_CALLS = 4


class ActivationRecord(TypedDict):
    """An activation in a layer record: its name, its module's type, and statistics."""

    name: str
    kind: str
    mean: float
    std: float
    dead: NotRequired[float]
    saturated: NotRequired[float]


def dead(out: Tensor, axis: int) -> Tensor:
    """Return the share of units, which are on `axis`, that are 0 for every example."""
    others = [other for other in range(out.dim()) if other != axis]
    return (out.amax(others) <= 0).mean(dtype=torch.float32)


def saturated(out: Tensor, low: float, high: float) -> Tensor:
    """Return the share of elements that are at the ends of their range."""
    near = (high - low) * (0.5 - _NEAR)
    return ((out - (high + low) / 2).abs() > near).mean(dtype=torch.float32)


def unit_axis(layer: nn.Module | None, dimensions: int) -> int:
    """Return the axis of the units in an activation of `dimensions` axes that follows a layer.

    >>> unit_axis(nn.Conv1d(1, 1, 1), 3), unit_axis(nn.Linear(1, 1), 3)
    (1, 2)
    >>> unit_axis(nn.Conv1d(1, 1, 1), 2)
    1
    """
    name = type(layer).__name__
    if any(part in name for part in _CHANNELS):
        return 1
    if any(part in name for part in _FEATURES):
        return dimensions - 1
    return 1 if dimensions in (2, 4, 5) else dimensions - 1


def _statistics(kind: type[nn.Module], out: Tensor, axis: int) -> dict[str, Tensor]:
    values = out[:EXAMPLES].float()
    mean = values.mean()
    # not torch.std, whose single pass takes eight times as long on a CPU
    std = torch.linalg.vector_norm(values - mean) / max(values.numel(), 1) ** 0.5
    statistics = {"mean": mean, "std": std}
    if issubclass(kind, _RELUS):
        statistics["dead"] = dead(values, axis)
    elif limits := _RANGES.get(kind):
        statistics["saturated"] = saturated(values, *limits)
    return statistics


class _CallHooks(TorchFunctionMode):
    """Calls `before` and `after` around every call of a torch function."""

    def __init__(
        self, before: Callable[[], None], after: Callable[[Any, Iterable[Any], Any], None]
    ) -> None:
        super().__init__()
        self._before, self._after = before, after

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self._before()
        out = func(*args, **kwargs)
        self._after(func, (*args, *kwargs.values()), out)
        return out


class _Call(NamedTuple):
    """One call of an activation: scalars by name, and whether it was called as a function."""

    kind: type[nn.Module]
    statistics: dict[str, Tensor]
    as_function: bool


class _Pending(NamedTuple):
    """An activation's output that is evaluated before torch's next call may change it in place."""

    name: str
    kind: type[nn.Module]
    out: Tensor
    as_function: bool


class Activations:
    """Statistics of the activations on the first batch that a model is given within `observe`."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._pending: _Pending | None = None
        #: How often each name was called in this forward pass.
        self._counts: Counter[str] = Counter()
        # of the model that was observed last: its activation modules (else its layers with
        # weights), the layer's name of each parameter by the parameter's id, all its modules, and
        # the axis of the units of each activation
        self._model: nn.Module | None = None
        self._hooked: dict[str, nn.Module] = {}
        self._owners: dict[int, str] = {}
        self._layers: dict[str, nn.Module] = {}
        self._axes: dict[str, int] = {}
        #: Whether it needs a forward pass of its own, and whether functions may be called in it.
        self._extra_pass, self._functions = False, True
        #: The layer whose parameters were used last.
        self._layer = ""

    @contextmanager
    def observe(
        self, model: nn.Module, parameters: Mapping[str, Tensor] | None = None
    ) -> Iterator[None]:
        """Observe the outputs of all activations; of linear and conv layers where there are none.

        Modules go by their name, functions that a forward calls by theirs and that of the layer
        with weights before them: "relu after fc1". Random numbers and the outputs stay as they are.
        `parameters` are those that the model is called with, if they are not its own.
        """
        self._calls = {}
        if model is not self._model or parameters is not None:
            self._inspect(model, parameters or dict(model.named_parameters()))
        with ExitStack() as stack:

            def begin(module: nn.Module, inputs: Any) -> None:
                begin_hook.remove()
                if not self._extra_pass:
                    stack.enter_context(self._hooks())

            def end(module: nn.Module, inputs: Any, out: Any) -> None:
                end_hook.remove()
                if self._extra_pass:
                    with self._hooks():
                        model(*inputs)
                stack.close()

            begin_hook = model.register_forward_pre_hook(begin)
            end_hook = model.register_forward_hook(end)
            try:
                yield
            finally:
                begin_hook.remove()
                end_hook.remove()
        self._evaluate_pending()  # a model that is a single layer is pending until here

    def _inspect(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        kinds = tuple(_KINDS.values())
        named = [*model.named_modules()]
        self._model, self._functions, self._axes, self._layers = model, True, {}, dict(named)
        self._hooked = {name: module for name, module in named if isinstance(module, kinds)} or {
            name: module for name, module in named if isinstance(module, _WEIGHTS)
        }
        self._owners = {
            id(tensor): name.rpartition(".")[0] or name for name, tensor in parameters.items()
        }
        # torch's attention leaves its faster path, which rounds differently, when it is hooked
        self._extra_pass = any(isinstance(module, nn.MultiheadAttention) for _, module in named)

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Observe what is called within."""
        self._pending, self._layer = None, ""
        self._counts.clear()
        hooks = [
            module.register_forward_hook(self._module_hook(name))
            for name, module in self._hooked.items()
        ]
        calls = (
            _CallHooks(self._evaluate_pending, self._after_function)
            if self._functions
            else nullcontext()
        )
        try:
            with calls:
                yield
            self._evaluate_pending()
        finally:
            for hook in hooks:
                hook.remove()
        self._functions = any(call.as_function for call in self._calls.values())

    def _module_hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, out: Any) -> None:
            # replaces the pending call of the function that the module itself has called
            tensor = isinstance(out, Tensor)
            self._pending = _Pending(name, type(module), out, False) if tensor else None
            if not self._functions:
                self._evaluate_pending()

        return hook

    def _after_function(self, function: Any, arguments: Iterable[Any], out: Any) -> None:
        for argument in arguments:
            if owner := self._owners.get(id(argument)):
                self._layer = owner
        name = _FUNCTIONS.get(function)
        if name is not None and isinstance(out, Tensor):
            full_name = f"{name} after {self._layer}" if self._layer else name
            self._pending = _Pending(full_name, _KINDS[name], out, True)

    def _evaluate_pending(self) -> None:
        if self._pending is None:
            return
        (name, kind, out, as_function), self._pending = self._pending, None
        if out.dim() < 2:
            return
        self._counts[name] += 1
        count = self._counts[name]
        if count > _MAX_CALLS:
            return
        if count > 1:
            name = f"{name} ({count})"
        # where functions are not hooked the layer before is unknown: the axis found first counts
        axis = self._axes.setdefault(name, unit_axis(self._layers.get(self._layer), out.dim()))
        self._calls[name] = _Call(kind, _statistics(kind, out.detach(), axis), as_function)

    def _recorded(self) -> dict[str, _Call]:
        """Return the calls of activations; of layers with weights where there are none."""
        calls = {k: v for k, v in self._calls.items() if not issubclass(v.kind, _WEIGHTS)}
        return calls or self._calls

    def scalars(self) -> list[Tensor]:
        """Return all statistics, each a scalar, in the order of the records."""
        calls = self._recorded().values()
        return [value for call in calls for value in call.statistics.values()]

    def records(self, scalars: Sequence[float] | None = None) -> list[ActivationRecord]:
        """Return a record for every activation observed.

        `scalars` are the values of `self.scalars()`, where they have been read.
        """
        values = iter(read_scalars(self.scalars()) if scalars is None else scalars)
        return [
            cast(
                ActivationRecord,
                {
                    "name": name,
                    "kind": call.kind.__name__,
                    **{key: rounded(next(values)) for key in call.statistics},
                },
            )
            for name, call in self._recorded().items()
        ]


def worst_shares(records: Sequence[ActivationRecord]) -> dict[str, float]:
    """Return "dead_relu" and "saturation": the largest share of a layer, where layers have any."""
    dead = [record["dead"] for record in records if "dead" in record]
    saturated = [record["saturated"] for record in records if "saturated" in record]
    shares = {"dead_relu": dead, "saturation": saturated}
    return {name: max(values) for name, values in shares.items() if values}
