"""The state of a training as tensors and JSON: split for a checkpoint, restored from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        self.skeleton = {name: self._split(value, name) for name, value in state.items()}

    def _split(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            while path in self.tensors:  # a "/" or a number among the keys
                path += "'"
            # separate contiguous copies: in the format tied weights may not share memory
            self.tensors[path] = value.detach().to("cpu", copy=True).contiguous()
            return {"$tensor": path}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Mapping):
            if all(type(key) is str and key[:1] != "$" for key in value):
                return {
                    key: item if type(item) in _PLAIN else self._split(item, f"{path}/{key}")
                    for key, item in value.items()
                }
            return {
                "$pairs": [[_key(k, path), self._split(v, f"{path}/{k}")] for k, v in value.items()]
            }
        if isinstance(value, tuple):
            return {"$tuple": [self._split(v, f"{path}/{i}") for i, v in enumerate(value)]}
        if isinstance(value, list):
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


def _spec(tensor: Tensor) -> TensorSpec:
    name = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(
        dtype=name, shape=tensor.shape, data_ptr=tensor.data_ptr(), data_len=tensor.nbytes
    )


def _key(key: Any, path: str) -> Any:
    if key is None or isinstance(key, (bool, int, float, str)):
        return key
    raise _refusal(key, path)


def _refusal(value: Any, path: str) -> CheckpointError:
    return CheckpointError(
        f"a checkpoint cannot hold a {type(value).__name__} (at {path}): its state_dict() "
        "must consist of tensors, numbers, text and None"
    )


def rebuild(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the state that a `Snapshot` has copied, from its skeleton and its tensors."""
    if isinstance(skeleton, list):
        return [rebuild(item, tensors) for item in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if "$tensor" in skeleton:
        return tensors[skeleton["$tensor"]]
    if "$tuple" in skeleton:
        return tuple(rebuild(item, tensors) for item in skeleton["$tuple"])
    if "$pairs" in skeleton:
        return {key: rebuild(item, tensors) for key, item in skeleton["$pairs"]}
    return {key: rebuild(item, tensors) for key, item in skeleton.items()}


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
                part.load_state_dict(rebuild(skeleton[name], tensors))
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).replace("\n", " ")
            raise CheckpointError(f"the checkpoint's {name!r} does not fit: {reason}") from error
