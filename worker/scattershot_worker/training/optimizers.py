"""Makes the torch optimizer that a trial's hyperparameters name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from scattershot_common.errors import TaskError
from scattershot_worker.training.hyperparameters import (
    FRACTION,
    NOT_NEGATIVE,
    SWITCH,
    Check,
    require,
)

# name → (class, whether it has a fused kernel, the hyperparameters it reads)
_OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], bool, tuple[str, ...]]] = {
    "sgd": (torch.optim.SGD, True, ("momentum", "nesterov")),
    "adagrad": (torch.optim.Adagrad, True, ("eps",)),
    "rmsprop": (torch.optim.RMSprop, False, ("momentum", "alpha", "eps")),
    "adam": (torch.optim.Adam, True, ("beta1", "beta2", "eps")),
    "adamw": (torch.optim.AdamW, True, ("beta1", "beta2", "eps")),
}
OPTIMIZERS = tuple(_OPTIMIZERS)
_CHECKS: dict[str, Check] = {
    "lr": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "momentum": FRACTION,
    "nesterov": SWITCH,
    "beta1": FRACTION,
    "beta2": FRACTION,
    "alpha": FRACTION,
    "eps": NOT_NEGATIVE,
}


def make_optimizer(model: nn.Module, params: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimizer that `params["optimizer"]` names (default "sgd").

    Read are `lr` (default 0.01), `weight_decay`, and what the optimizer has of `momentum`,
    `nesterov`, `beta1`, `beta2`, `alpha`, `eps`; torch's own defaults stand for what is absent.
    Biases and norms (parameters of one dimension) do not decay, unless `decay_all` is true.
    Nesterov momentum needs a momentum above 0, else it is plain SGD, so that both may be
    searched together.

    Raises:
        TaskError: there is no optimizer of that name, a hyperparameter is outside its bounds, or
            there is nothing to train.
    """
    name = str(params.get("optimizer", "sgd")).lower()
    if name not in _OPTIMIZERS:
        raise TaskError(f"no optimizer is called {name!r}; there are {', '.join(OPTIMIZERS)}")
    make, has_fused, reads = _OPTIMIZERS[name]
    used = {key: params[key] for key in ("lr", "weight_decay", *reads) if key in params}
    require(used, _CHECKS)
    given: dict[str, Any] = {"lr": float(params.get("lr", 0.01))}
    if "weight_decay" in params:
        given["weight_decay"] = float(params["weight_decay"])
    given |= {key: value for key, value in used.items() if key in reads}
    if "beta1" in given or "beta2" in given:
        given["betas"] = (given.pop("beta1", 0.9), given.pop("beta2", 0.999))
    if given.get("nesterov") and not given.get("momentum"):
        given["nesterov"] = False
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise TaskError("the model has no parameters to train: it has none, or all are frozen")
    if has_fused and all(p.is_floating_point() and p.dtype != torch.float16 for p in trained):
        given["fused"] = True  # one kernel for all parameters: the same sums, less overhead
    return make(_groups(trained, bool(params.get("decay_all", False))), **given)


def _groups(trained: list[nn.Parameter], decay_all: bool) -> list[dict[str, Any]]:
    """Return the parameter groups: those that decay, then those that do not."""
    if decay_all:
        return [{"params": trained}]
    weights = [parameter for parameter in trained if parameter.dim() > 1]
    exempt = [parameter for parameter in trained if parameter.dim() <= 1]
    groups: list[dict[str, Any]] = [
        {"params": weights},
        {"params": exempt, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
