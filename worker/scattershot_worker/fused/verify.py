"""Verification that a pack trains as its trials would alone: two steps of both, in float64.

The lanes have different hyperparameters, where the model allows it, and each lane's model is made
before any is trained; alone, each is made and trained by itself. So what a task keeps of the trial
whose model it made last, and what a loss keeps from step to step, tells them apart.

In double precision the two agree to rounding or not at all, optimizer included; nothing that a
trace has frozen, and nothing that lanes share by mistake, passes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data, Task
from scattershot_worker.engine.engine import Signature
from scattershot_worker.fused.engine import FusedEngine
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.signature import NotFusable, probe
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.evaluation import evaluate
from scattershot_worker.training.initialization import make_model
from scattershot_worker.training.seeding import fixed_seed
from scattershot_worker.training.training import Training, train_epoch
from scattershot_worker.training.variables import Variables

_STEPS = 2
#: What a hyperparameter is multiplied with for another trial, and how many are tried singly.
_NEAR, _TRIED = 0.9, 8
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
    variables = Variables(task)
    trials = [(training, 1), (_other(task, training, data, signature) or training, 2)]
    fused = [_double_copy(_remade(trial, data), seed) for trial, seed in trials]
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
    fused_metrics = [_metrics(engine, lane, part, check) for lane in lanes]
    for lane, metrics, (trial, seed) in zip(lanes, fused_metrics, trials, strict=True):
        alone = _double_copy(_remade(trial, data), seed)
        train_epoch(alone, part.train, check)
        if any(p.grad is None for group in alone.optimizer.param_groups for p in group["params"]):
            raise NotFusable("a parameter of its model gets no gradient", "freeze or remove it")
        state, expected = lane.state("model"), alone.model.state_dict()
        differing = [name for name in expected if not _close(state[name], expected[name])]
        if not differing and metrics is not None:
            evaluation = evaluate(alone.hooks, alone.model, part.val, alone.device, check)
            differing = [
                name
                for name, value in evaluation.metrics.items()
                if not _alike(float(metrics[name]), float(value))
            ]
        if changes := variables.changes():
            raise NotFusable(f"its training changes {changes[0]}, which lanes would share")
        if differing:
            raise NotFusable(f"trained as a lane its {differing[0]} differs")


def _metrics(
    engine: FusedEngine, lane: Lane, part: Data, check: Callable[[], None]
) -> Mapping[str, float] | None:
    """Return a lane's metrics, None where the task has none of so few examples."""
    try:
        return engine.evaluate(part.val, check)[lane].metrics
    except Exception:
        return None


def _remade(training: Training, data: Data) -> Training:
    """Return a trial with a model that the task makes now, and the weights of the one it had."""
    with fixed_seed():
        model = make_model(training.task, training.params, data.train)
        model.load_state_dict(training.model.state_dict())
        return Training(
            training.task,
            training.params,
            seed=training.seed,
            budget=training.budget,
            device=training.device,
            model=model,
        )


def _other(task: Task, training: Training, data: Data, signature: Signature) -> Training | None:
    """Return a trial of the signature with other hyperparameters, None where there is none."""
    params = training.params
    names = [name for name, value in params.items() if isinstance(value, float) and value]
    for changed in [names, *([name] for name in names[:_TRIED])]:
        others = {**params, **{name: _NEAR * params[name] for name in changed}}
        try:
            with fixed_seed():
                model = make_model(task, others, data.train)
                other = Training(
                    task,
                    others,
                    seed=training.seed,
                    budget=training.budget,
                    device=training.device,
                    model=model,
                )
                if changed and probe(task, other, data) == signature:
                    return other
        except Exception:  # a value that the task does not take
            continue
    return None


def _close(fused: Tensor, alone: Tensor) -> bool:
    if not alone.is_floating_point():
        return torch.equal(fused, alone)
    if not torch.isfinite(alone).all():
        return False
    size = alone.abs().max().clamp(min=1e-6) if alone.numel() else 1.0
    return bool(((fused - alone).abs() <= _TOLERANCE * size).all())


def _alike(fused: float, alone: float) -> bool:
    return (
        fused == alone
        or (fused != fused and alone != alone)
        or (abs(fused - alone) <= _TOLERANCE * max(abs(alone), 1e-6))
    )


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
