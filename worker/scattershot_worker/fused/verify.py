"""Verification that a pack trains as its trials would alone: two steps of both, in float64.

In double precision the two agree to rounding or not at all, optimizer included; nothing that a
trace has frozen, and nothing that lanes share by mistake, passes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data, Task
from scattershot_worker.engine.engine import Signature
from scattershot_worker.fused.engine import FusedEngine
from scattershot_worker.fused.signature import NotFusable, probe
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.training import Training, train_epoch

_STEPS = 2
_TOLERANCE = 1e-7


def copied(training: Training) -> Training:
    """Return a copy of a trial with the same task, which may hold all its data."""
    return copy.deepcopy(training, {id(training.task): training.task})


def _double_copy(training: Training, seed: int) -> Training:
    """Return a copy of a trial in float64, with a seed and slightly different weights."""
    double = copied(training)
    double.model.double()
    double.optimizer.state.clear()
    double.reseed(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in double.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + 0.1 * noise.to(parameter.device))
    if double.average is not None:
        double.average = double.average.restarted(double.model)
    double.begin_epoch(1, [])
    return double


def first_batches(data: Data, size: int, count: int, *, double: bool = False) -> Data:
    """Return the first `count` batches of `size` as both training and validation part."""
    x, y = (tensor[: size * count] for tensor in tensors_of(data.train))
    if double:
        x, y = (tensor.double() if tensor.is_floating_point() else tensor for tensor in (x, y))
    return Data((x, y), (x, y))


def verify(
    task: Task,
    training: Training,
    data: Data,
    signature: Signature,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train two copies of a trial for two steps, as lanes and alone, and compare them.

    Raises:
        NotFusable: the lanes cannot be trained, or end with other weights.
    """
    part = first_batches(data, signature.batch_size, _STEPS, double=True)
    fused = [_double_copy(training, seed) for seed in (1, 2)]
    alone = [_double_copy(training, seed) for seed in (1, 2)]
    try:
        engine = FusedEngine(task, part, probe(task, fused[0], part))
        lanes = [engine.lane(trial) for trial in fused]
        for lane in lanes:
            engine.admit(lane)
        engine.train_epoch(check)
    except NotFusable:
        raise
    except TaskError as error:  # reported when the trial is trained alone
        raise NotFusable(str(error)) from error
    except Exception as error:
        raise NotFusable(
            f"its steps cannot be recorded: {type(error).__name__}: {_brief(error)}",
            "tensor operations alone, no branches on values",
        ) from error
    for lane, trial in zip(lanes, alone, strict=True):
        train_epoch(trial, part.train, check)
        if any(p.grad is None for group in trial.optimizer.param_groups for p in group["params"]):
            raise NotFusable("a parameter of its model gets no gradient", "freeze or remove it")
        state = lane.state("model")
        for name, expected in trial.model.state_dict().items():
            if not _close(state[name], expected):
                raise NotFusable(f"trained as a lane its {name} differs")


def _close(fused: Tensor, alone: Tensor) -> bool:
    if not alone.is_floating_point():
        return torch.equal(fused, alone)
    if not torch.isfinite(alone).all():
        return False
    size = alone.abs().max().clamp(min=1e-6) if alone.numel() else 1.0
    return bool(((fused - alone).abs() <= _TOLERANCE * size).all())


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
