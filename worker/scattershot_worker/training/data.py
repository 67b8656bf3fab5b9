"""A task's data: moved to a device once, and read in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data, Part, Task
from scattershot_worker.training.outputs import is_cross_entropy
from scattershot_worker.training.seeding import fixed_seed

#: Examples of a forward pass that is not trained on.
EVALUATION_BATCH = 1024
EMPTY = "the {} part has no batches: with drop_last a loader has none of a part below its size"


@dataclass(frozen=True)
class _Cached:
    """A task's data as it lies on a device, kept from trial to trial."""

    task: Task
    device: torch.device
    data: Data


_cache: list[_Cached] = []


def data_on(task: Task, device: torch.device) -> Data:
    """Return the task's data with its tensors on `device`; read once, then kept.

    Raises:
        TaskError: what `data()` returns is no `Data`, or a part of it neither tensors nor a loader.
    """
    for cached in _cache:
        if cached.task is task and cached.device == device:
            return cached.data
    with fixed_seed():
        data = task.data()
    if not isinstance(data, Data):
        raise TaskError(
            f"{type(task).__name__}.data() must return scattershot.Data(train=…, val=…), "
            f"not a {type(data).__name__}"
        )

    def move(part: Part) -> Part:
        if not is_tensors(part):
            # an iterator would be empty from the second epoch on
            if isinstance(part, (tuple, Iterator)) or not isinstance(part, Iterable):
                raise TaskError(
                    f"{type(task).__name__}.data(): each part must be a pair (x, y) of tensors or "
                    f"a DataLoader, not {_describe(part)}"
                )
            return part
        x, y = part
        if len(x) != len(y) or len(x) == 0:
            raise TaskError(
                f"{type(task).__name__}.data(): x has {len(x)} examples and y {len(y)}; "
                "both must have the same number, above 0"
            )
        # cross-entropy takes class numbers as int64: converted once, for all trials
        classes = is_cross_entropy(task) and not y.is_floating_point()
        return x.to(device), (y.long() if classes else y).to(device)

    moved = Data(move(data.train), move(data.val), None if data.test is None else move(data.test))
    _cache[:] = [_Cached(task, device, moved)]  # one task at a time: a GPU's memory is limited
    return moved


def is_tensors(part: Part) -> TypeGuard[tuple[Tensor, Tensor]]:
    """Return whether a part is an (x, y) pair of tensors rather than a loader."""
    return isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], Tensor)


def tensors_of(part: Part) -> tuple[Tensor, Tensor]:
    """Return a part that is known to be a pair of tensors."""
    if not is_tensors(part):
        raise TypeError("a loader is no pair of tensors")
    return part


def steps_of(part: Part, size: int) -> int:
    """Return the number of batches of an epoch, at least 1; `size` is that of a batch of tensors.

    Raises:
        TaskError: a loader has no length.
    """
    if is_tensors(part):
        return -(-len(part[0]) // size)
    try:
        return max(1, len(part))  # type: ignore[arg-type]
    except TypeError:
        raise TaskError(
            "a schedule needs to know how many batches an epoch has: give the loader a length, or "
            'schedule = "constant"'
        ) from None


def known_steps(part: Part, size: int) -> int | None:
    """Return the number of batches of an epoch, or None where a loader has no length."""
    try:
        return steps_of(part, size)
    except TaskError:
        return None


def batches(
    part: Part, size: int, device: torch.device, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (x, y) on `device`: shuffled by `generator`, in order without one.

    A loader brings its own batches; its shuffling follows torch's global seed, which is set for
    every epoch.
    """
    if not is_tensors(part):
        for batch in part:
            x, y = _pair(batch)
            yield x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        return
    x, y = part
    if generator is None:
        yield from zip(x.split(size), y.split(size), strict=True)
        return
    order = torch.randperm(len(x), generator=generator).to(device)
    for index in order.split(size):
        yield x.index_select(0, index), y.index_select(0, index)


def _pair(batch: Any) -> tuple[Tensor, Tensor]:
    """Return a loader's batch; x may be anything that can be moved, as a PackedSequence can."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2 and hasattr(batch[0], "to"):
        return batch[0], batch[1]
    raise TaskError(f"a loader must give pairs (x, y) of tensors, not {_describe(batch)}")


def _describe(value: object) -> str:
    """Return in words what came instead of a pair of tensors."""
    if not isinstance(value, (tuple, list)):
        return f"a {type(value).__name__}"
    return f"({', '.join(type(item).__name__ for item in value[:4])}{', …' * (len(value) > 4)})"
