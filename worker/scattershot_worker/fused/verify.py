"""Owns the proof that a pack trains as its trials would alone: two steps of both, in float64.

In double precision the two agree to rounding or not at all, optimizer included; nothing that a
trace has baked in, and nothing that lanes share by mistake, passes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data, Task
from scattershot_worker.fused.engine import Engine
from scattershot_worker.fused.signature import NotFusable, Signature, probe
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.training import Training, train_epoch

_STEPS = 2
_TOLERANCE = 1e-7


def double_of(training: Training, seed: int) -> Training:
    """Return a copy of a trial in float64, with a seed and slightly different weights."""
    # the task may hold all its data: it is not copied with the trial
    copied = copy.deepcopy(training, {id(training.task): training.task})
    copied.model.double()
    copied.optimizer.state.clear()
    copied.reseed(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copied.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + 0.1 * noise.to(parameter.device))
    if copied.average is not None:
        copied.average = copied.average.restarted(copied.model)
    copied.begin_epoch(1, [])
    return copied


def some_batches(data: Data, size: int, count: int, *, double: bool = False) -> Data:
    """Return the first `count` batches as the training part."""
    x, y = (part[: size * count] for part in tensors_of(data.train))
    if double:
        x, y = (part.double() if part.is_floating_point() else part for part in (x, y))
    return Data((x, y), (x, y))


def verify(
    task: Task,
    training: Training,
    data: Data,
    signature: Signature,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train two lanes for two steps, and each alone.

    Raises:
        NotFusable: the lanes cannot be trained, or come to other weights.
    """
    part = some_batches(data, signature.batch_size, _STEPS, double=True)
    lanes = [double_of(training, seed) for seed in (1, 2)]
    alone = [double_of(training, seed) for seed in (1, 2)]
    try:
        signature = probe(task, lanes[0], part)
        engine = Engine(task, part, signature)
        admitted = [engine.lane(one) for one in lanes]
        for lane in admitted:
            engine.admit(lane)
        engine.train_epoch(check)
    except NotFusable:
        raise
    except TaskError as error:  # alone, it is told again
        raise NotFusable(str(error)) from error
    except Exception as error:
        raise NotFusable(
            f"its steps cannot be recorded: {type(error).__name__}: {_brief(error)}",
            "tensor operations alone, no branches on values",
        ) from error
    for lane, one in zip(admitted, alone, strict=True):
        train_epoch(one, part.train, check)
        if any(p.grad is None for group in one.optimizer.param_groups for p in group["params"]):
            raise NotFusable("a parameter of its model gets no gradient", "freeze or remove it")
        state = lane.state("model")
        for name, expected in one.model.state_dict().items():
            if not _close(state[name], expected):
                raise NotFusable(f"as a lane its {name} comes out otherwise")


def _close(lane: Tensor, alone: Tensor) -> bool:
    if not alone.is_floating_point():
        return torch.equal(lane, alone)
    if not torch.isfinite(alone).all():
        return False
    size = alone.abs().max().clamp(min=1e-6) if alone.numel() else 1.0
    return bool(((lane - alone).abs() <= _TOLERANCE * size).all())


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
