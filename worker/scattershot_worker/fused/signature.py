"""Signatures: trials of the same signature can be lanes of one program.

`probe` takes one forward pass of a few examples. It records which operations the model does, on
what shapes and with what numbers (except a dropout's p), and what its parameters, buffers and
optimizer groups are. Trials whose records are equal do the same arithmetic on different numbers.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from scattershot_common.task.task import Data, Task
from scattershot_worker.engine.engine import Signature, Site
from scattershot_worker.fused.optimizer_rules import REFUSED, RULES
from scattershot_worker.training import dropout
from scattershot_worker.training.data import is_tensors, tensors_of
from scattershot_worker.training.hooks import takes_params
from scattershot_worker.training.outputs import is_cross_entropy, last_is_sigmoid, takes_logits
from scattershot_worker.training.training import Training

#: Examples of the forward pass.
_EXAMPLES = 4


class NotFusable(Exception):
    """Why a trial must be trained alone; a `hint` says what would change that."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(f"{reason}; {hint}" if hint else reason)
        self.reason, self.hint = reason, hint


def probe(task: Task, training: Training, data: Data) -> Signature:
    """Return a trial's signature; its model and torch's generators are left as they were.

    Raises:
        NotFusable: it must be trained alone.
    """
    _check_options(task, training, data)
    x, y = tensors_of(data.train)
    forward = _record_forward(training, x[: min(_EXAMPLES, len(x))])
    one_output = forward.outputs * len(y) == y.numel()
    if takes_logits(task) and one_output and last_is_sigmoid(forward.functions):
        raise NotFusable("its outputs are probabilities")  # an error when it is trained alone
    groups = [len(group["params"]) for group in training.optimizer.param_groups]
    record = (
        forward.record,
        _parameters(training.model),
        groups,
        training.batch_size,
        f"{type(task).__module__}.{type(task).__qualname__}",
        _source(type(task)),
        tuple(x.shape),
        str(x.dtype),
        tuple(y.shape[1:]),
        str(y.dtype),
        torch.__version__,
        torch.get_num_threads(),
        x.device.type,
    )
    key = blake2b(repr(record).encode(), digest_size=8).hexdigest()
    return Signature(key, tuple(forward.sites), training.batch_size, forward.elements)


@cache
def _source(kind: type[Task]) -> str:
    """Return a hash of the modules that a task's class comes from: an edited one is another."""
    digest = blake2b(digest_size=8)
    own = [base for base in kind.__mro__ if base not in Task.__mro__]
    for module in dict.fromkeys(base.__module__ for base in own):
        if file := getattr(sys.modules.get(module), "__file__", None):
            with suppress(OSError):
                digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _check_options(task: Task, training: Training, data: Data) -> None:
    """Raise NotFusable for data, a task or hyperparameters that lanes do not support."""
    if not (is_tensors(data.train) and is_tensors(data.val)):
        raise NotFusable("its data is a loader", "give tensors to be trained with others at once")
    if is_cross_entropy(task) and any(
        y.min() < 0 for _, y in map(tensors_of, (data.train, data.val))
    ):
        raise NotFusable("some of its targets are to be left out")
    settings = training.settings
    if takes_params(type(task), "loss"):
        raise NotFusable("its loss takes the hyperparameters")
    if type(task).augment is not Task.augment:
        raise NotFusable("its task augments its batches")
    if settings.accumulate > 1:
        raise NotFusable("it accumulates gradients", "a larger batch_size is the same, if it fits")
    if settings.label_smoothing and tensors_of(data.train)[1].dim() != 1:
        raise NotFusable("it smooths labels that are not one for each example")
    if settings.precision != "float32":
        raise NotFusable(f"it trains in {settings.precision}")
    if settings.compile:
        raise NotFusable("its model is compiled")
    if type(task).optimizer is not Task.optimizer:
        raise NotFusable("its task makes the optimizer itself")
    optimizer = training.optimizer
    if type(optimizer) not in RULES:
        raise NotFusable(f"its optimizer is a {type(optimizer).__name__}")
    for group in optimizer.param_groups:
        for option in REFUSED:
            if group.get(option):
                raise NotFusable(f"its optimizer has {option}")
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len({parameter.dtype for parameter in trained}) != 1:
        raise NotFusable("its parameters are of several types")
    for name, module in training.model.named_modules():
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor):
                raise NotFusable(
                    f"{name or 'its model'} keeps a tensor, {attribute}, that is no parameter",
                    "register it as a buffer",
                )


def _parameters(model: nn.Module) -> list[object]:
    """Return names, shapes and types of parameters and buffers."""
    return [
        *((n, tuple(t.shape), str(t.dtype), t.requires_grad) for n, t in model.named_parameters()),
        *((n, tuple(t.shape), str(t.dtype)) for n, t in model.named_buffers()),
    ]


class _ForwardRecorder(TorchFunctionMode):
    """Records the operations of a forward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.record: list[object] = []
        self.sites: list[Site] = []
        self.functions: list[str] = []
        #: Elements of all results, and of the outputs, per example.
        self.elements = self.outputs = 0
        self._names = {id(module): name for name, module in model.named_modules()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if not name.startswith("__get"):
            self.record.append((name, _description(args), _description(kwargs)))
            self.functions.append(name)
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) and result.dim():
            self.elements += result.numel() // max(len(result), 1)
        return result

    def drop(self, module: dropout.KeyedDropout, x: Tensor) -> Tensor:
        """Replace a dropout module: its position is part of the record, its p is not."""
        self.record.append(("dropout", tuple(x.shape[1:])))
        self.sites.append((self._names[id(module)], x[0].numel()))
        return x


def _description(value: Any) -> object:
    """Return what is recorded of an argument: of a tensor, its type and shape."""
    if isinstance(value, Tensor):
        return str(value.dtype), tuple(value.shape)
    if isinstance(value, Mapping):
        return tuple((key, _description(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(_description, value))
    if isinstance(value, (int, float, str, bool, type(None), torch.dtype, torch.device)):
        return repr(value)
    return type(value).__name__


def _record_forward(training: Training, x: Tensor) -> _ForwardRecorder:
    """Return the record of a forward pass; buffers and dropout masks stay as they are."""
    model = training.model.train()
    recorder = _ForwardRecorder(model)
    dropout.take_over(model, recorder.drop)
    attributes, rng_state = _attributes(model), torch.random.get_rng_state()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad(), recorder:
            out = functional_call(model, buffers, (x,))
    except Exception as error:  # trained alone, it reports its error
        raise NotFusable(f"its model fails on {len(x)} examples: {error}") from error
    finally:
        dropout.take_over(model, training.masks)
    if not torch.equal(rng_state, torch.random.get_rng_state()):
        torch.random.set_rng_state(rng_state)
        raise NotFusable(
            "its model draws random numbers of its own", "nn.Dropout has them for every lane"
        )
    if _attributes(model) != attributes:
        raise NotFusable("its forward pass changes attributes of the model", "use a buffer")
    if not isinstance(out, Tensor) or len(out) != len(x):
        raise NotFusable("its model returns something else than one output for each example")
    recorder.outputs = out[0].numel()
    return recorder


def _attributes(model: nn.Module) -> str:
    """Return the plain attributes of all modules: lanes at different epochs cannot share them."""
    plain = (int, float, str, bool, tuple, list, dict, set, type(None))
    return repr(
        [
            (name, sorted((k, repr(v)) for k, v in vars(module).items() if _is_plain(k, v, plain)))
            for name, module in model.named_modules()
        ]
    )


def _is_plain(name: str, value: object, plain: tuple[type, ...]) -> bool:
    return not name.startswith("_") and isinstance(value, plain)
