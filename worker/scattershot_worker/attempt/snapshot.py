"""The state of a training as tensors and JSON: split for a checkpoint, restored from one."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import safetensors
import safetensors.torch
import torch
from safetensors import TensorSpec
from torch import Tensor

from scattershot_common.errors import CheckpointError
from scattershot_common.store.checkpoint_header import metadata, seal


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold: models, optimizers, schedulers, scalers, a user's own object."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the state: tensors, numbers, text, None, in dicts, lists and tuples."""

    def load_state_dict(self, state: Any) -> object:
        """Restore the state."""


class Snapshot:
    """A copy of a state: its `tensors` by name, and the rest as a JSON `skeleton`."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        """Copy `state` to the CPU, so that training may go on while it is written.

        Raises:
            CheckpointError: something in it is neither a tensor nor plain data.
        """
        self.tensors: dict[str, Tensor] = {}
        # the state_dict of a module is an OrderedDict, which readers take for the dict it is
        self.skeleton = {
            name: self._split(value, name, tagged=False) for name, value in state.items()
        }

    def _split(self, value: Any, path: str, *, tagged: bool = True) -> Any:
        """Return the skeleton of a value; `tagged` writes the types that are not plain down."""
        if isinstance(value, Tensor):
            while path in self.tensors:  # a "/" or a number among the keys
                path += "'"
            if value.dtype not in _READABLE:
                raise CheckpointError(
                    f"a checkpoint cannot hold a tensor of {value.dtype} (at {path}), which could "
                    "not be read back: let state_dict() give another dtype, as view(torch.uint8)"
                )
            # separate contiguous copies: in the format tied weights may not share memory
            self.tensors[path] = value.detach().to("cpu", copy=True).contiguous()
            return {"$tensor": path}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value if type(value) in _PLAIN else _tagged(value, _plain(value))
        if isinstance(value, Mapping):
            if tagged and isinstance(value, dict) and type(value) is not dict:
                return _tagged(value, self._split(value, path, tagged=False))
            if all(type(key) is str and key[:1] != "$" for key in value):
                return {
                    key: item if type(item) in _PLAIN else self._split(item, f"{path}/{key}")
                    for key, item in value.items()
                }
            return {
                "$pairs": [
                    [_key(k, path), self._split(v, f"{path}/{_plain(k)}")] for k, v in value.items()
                ]
            }
        if isinstance(value, tuple):
            if tagged and type(value) is not tuple:
                return _tagged(value, self._split(value, path, tagged=False))
            return {"$tuple": [self._split(v, f"{path}/{i}") for i, v in enumerate(value)]}
        if isinstance(value, list):
            if tagged and type(value) is not list:
                return _tagged(value, self._split(value, path, tagged=False))
            return [self._split(v, f"{path}/{i}") for i, v in enumerate(value)]
        raise _refusal(value, path)

    def serialize(self, header: Mapping[str, object], history: Sequence[str] = ()) -> bytearray:
        """Return the bytes of a sealed safetensors file with this state and a header.

        See `checkpoint_header.metadata` for the two arguments.
        """
        text = metadata({**header, "state": self.skeleton}, history)
        # what `safetensors.torch.save` does, without its search for memory that tensors share,
        # which takes most of its time for small ones; these share none
        specs = {name: _spec(tensor) for name, tensor in self.tensors.items()}
        return seal(safetensors.serialize(specs, text))


#: Types that are kept as they are: most of what an optimizer's groups hold.
_PLAIN = frozenset((type(None), bool, int, float, str))
#: Types of tensors that `safetensors` reads.
_READABLE = frozenset(safetensors.torch._TYPES.values())


def _spec(tensor: Tensor) -> TensorSpec:
    name = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(
        dtype=name, shape=tensor.shape, data_ptr=tensor.data_ptr(), data_len=tensor.nbytes
    )


def _key(key: Any, path: str) -> Any:
    if key is None or isinstance(key, (bool, int, float, str)):
        return key if type(key) in _PLAIN else _tagged(key, _plain(key))
    raise _refusal(key, path)


def _plain(value: Any) -> Any:
    """Return a number or text of a subclass, such as an enum's, as what it is in JSON."""
    if isinstance(value, Enum):
        value = value.value
    if type(value) in _PLAIN:
        return value
    if isinstance(value, int):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else str.__str__(value)


def _tagged(value: Any, skeleton: Any) -> dict[str, Any]:
    """Return the skeleton of a value that has a type of its own."""
    tag = {"$type": _name(type(value)), "value": skeleton}
    if isinstance(value, defaultdict) and value.default_factory in _FACTORIES.values():
        factory: Any = value.default_factory
        tag["factory"] = factory.__name__
    return tag


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


#: What a defaultdict may make, where the object that is restored holds none.
_FACTORIES: dict[str, Any] = {
    kind.__name__: kind for kind in (int, float, str, bool, list, dict, set)
}
#: Types that are known without the object that is restored.
_KNOWN: dict[str, type] = {_name(kind): kind for kind in (Counter, OrderedDict, torch.Size)}


@dataclass
class _Types:
    """The types that a state may have besides plain ones, by name: known, or held right now."""

    kinds: dict[str, type] = field(default_factory=lambda: dict(_KNOWN))
    #: What the defaultdicts make that are held right now.
    factory: Any = None

    def learn(self, value: Any) -> None:
        """Add the types in a state."""
        if isinstance(value, Tensor) or type(value) in _PLAIN:
            return
        if isinstance(value, (Mapping, tuple, list, bool, int, float, str)):
            self.kinds.setdefault(_name(type(value)), type(value))
        if isinstance(value, defaultdict) and self.factory is None:
            self.factory = value.default_factory
        if isinstance(value, Mapping):
            for key, item in value.items():
                self.learn(key)
                self.learn(item)
        elif isinstance(value, (tuple, list)):
            for item in value:
                self.learn(item)

    def typed(self, tag: Mapping[str, Any], value: Any) -> Any:
        """Return a value in its type, or as it is where the type is not known."""
        if tag["$type"] == _name(defaultdict):
            factory = _FACTORIES.get(tag.get("factory", ""), self.factory)
            return defaultdict(factory, value)
        kind = self.kinds.get(tag["$type"])
        if kind is None:
            return value
        try:
            return kind._make(value) if hasattr(kind, "_make") else kind(value)
        except Exception:  # it is made in another way: as it came back before
            return value


def _refusal(value: Any, path: str) -> CheckpointError:
    return CheckpointError(
        f"a checkpoint cannot hold a {type(value).__name__} (at {path}): its state_dict() "
        "must consist of tensors, numbers, text and None"
    )


def rebuild(skeleton: Any, tensors: Mapping[str, Tensor], held: Any = None) -> Any:
    """Return the state that a `Snapshot` has copied, from its skeleton and its tensors.

    `held` is the present state of the object that is restored: of the types that are not plain,
    those that it holds come back, and those of the standard library and torch. No others: nothing
    is imported that a file names.
    """
    types = _Types()
    types.learn(held)
    return _rebuilt(skeleton, tensors, types)


def _rebuilt(skeleton: Any, tensors: Mapping[str, Tensor], types: _Types) -> Any:
    if isinstance(skeleton, list):
        return [_rebuilt(item, tensors, types) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if "$tensor" in skeleton:
        return tensors[skeleton["$tensor"]]
    if "$type" in skeleton:
        return types.typed(skeleton, _rebuilt(skeleton["value"], tensors, types))
    if "$tuple" in skeleton:
        return tuple(_rebuilt(item, tensors, types) for item in skeleton["$tuple"])
    if "$pairs" in skeleton:
        return {
            _rebuilt(key, tensors, types): _rebuilt(item, tensors, types)
            for key, item in skeleton["$pairs"]
        }
    return {key: _rebuilt(item, tensors, types) for key, item in skeleton.items()}


def read_tensors(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's bytes."""
    return safetensors.torch.load(data)


def restore(parts: Mapping[str, Stateful], skeleton: Mapping[str, Any], data: bytes) -> None:
    """Restore the state of each part.

    Raises:
        CheckpointError: a part has no state in the file, or one that does not fit it.
    """
    tensors = read_tensors(data)
    for name, part in parts.items():
        if name not in skeleton:
            raise CheckpointError(
                f"the checkpoint holds no {name!r}; trial.epochs() must be given the same "
                "objects every time"
            )
        try:
            with torch.no_grad():
                part.load_state_dict(rebuild(skeleton[name], tensors, _held(part)))
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).replace("\n", " ")
            raise CheckpointError(f"the checkpoint's {name!r} does not fit: {reason}") from error


def _held(part: Stateful) -> object:
    """Return the present state of a part, whose types its restored state has."""
    try:
        return part.state_dict()
    except Exception:  # it has none before it is restored
        return None
