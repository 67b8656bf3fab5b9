"""How each kind of optimizer updates a lane: torch's own kernels, one call for all parameters.

A lane's optimizer is the trial's own: its hyperparameters are read from it, and its state goes
into rows when the lane is admitted and comes out as the same `state_dict`. The kernels are those
that `torch.optim` calls with `fused=True`; they work element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Group = Mapping[str, Any]
Settings = dict[str, Any]


class UpdateTensors(NamedTuple):
    """Tensors of some of a lane's parameters, in the parameters' order."""

    weights: list[Tensor]
    grads: list[Tensor]
    first_moments: list[Tensor]
    second_moments: list[Tensor]
    steps: list[Tensor]  #: steps counted, each a scalar


def _sgd(tensors: UpdateTensors, settings: Settings) -> None:
    weights, grads, momenta, _, _ = tensors
    torch._fused_sgd_(weights, grads, momenta if settings["momentum"] else [], **settings)
    settings["is_first_step"] = False  # the first gradient is the first momentum


def _adam(tensors: UpdateTensors, settings: Settings) -> None:
    weights, grads, means, squares, steps = tensors
    torch._fused_adam_(weights, grads, means, squares, [], steps, **settings)


def _adamw(tensors: UpdateTensors, settings: Settings) -> None:
    weights, grads, means, squares, steps = tensors
    torch._fused_adamw_(weights, grads, means, squares, [], steps, **settings)


def _adagrad(tensors: UpdateTensors, settings: Settings) -> None:
    weights, grads, sums, _, steps = tensors
    torch._fused_adagrad_(weights, grads, sums, steps, **settings)


def _rmsprop(tensors: UpdateTensors, settings: Settings) -> None:
    weights, grads, squares, momenta, _ = tensors
    if settings["weight_decay"]:
        grads = [*torch._foreach_add(grads, weights, alpha=settings["weight_decay"])]
    torch._foreach_mul_(squares, settings["alpha"])
    torch._foreach_addcmul_(squares, grads, grads, value=1 - settings["alpha"])
    sizes = torch._foreach_sqrt(squares)
    torch._foreach_add_(sizes, settings["eps"])
    if settings["momentum"]:
        torch._foreach_mul_(momenta, settings["momentum"])
        torch._foreach_addcdiv_(momenta, grads, sizes)
        torch._foreach_add_(weights, momenta, alpha=-settings["lr"])
    else:
        torch._foreach_addcdiv_(weights, grads, sizes, value=-settings["lr"])


def _betas(group: Group) -> Settings:
    beta1, beta2 = group["betas"]
    return {"beta1": beta1, "beta2": beta2, "amsgrad": False}


def _no_settings(group: Group) -> Settings:
    return {}


@dataclass(frozen=True)
class Rule:
    """How one kind of optimizer updates a lane.

    `moments` are the names of the moments in the optimizer's state, `options` the settings that
    are read from a parameter group as they are, `derived` returns those that are computed from
    it, and `counts_steps` says whether the state counts steps.
    """

    update: Callable[[UpdateTensors, Settings], None]
    moments: tuple[str, ...]
    options: tuple[str, ...]
    derived: Callable[[Group], Settings]
    counts_steps: bool = True

    def settings(self, group: Group, *, fresh: bool) -> Settings:
        """Return the settings for `update`; `fresh` says that no step has been done."""
        settings = {name: group[name] for name in ("lr", "weight_decay", *self.options)}
        settings |= self.derived(group)
        if not self.counts_steps:
            settings["is_first_step"] = fresh and bool(group["momentum"])
        return settings

    def stored_moments(self, group: Group) -> tuple[str, ...]:
        """Return the moments that the optimizer's state has under a group's settings."""
        return tuple(
            name for name in self.moments if name != "momentum_buffer" or group["momentum"]
        )


_SGD = ("momentum", "dampening", "nesterov", "maximize")
RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.SGD: Rule(_sgd, ("momentum_buffer",), _SGD, _no_settings, counts_steps=False),
    torch.optim.Adam: Rule(_adam, ("exp_avg", "exp_avg_sq"), ("eps", "maximize"), _betas),
    torch.optim.AdamW: Rule(_adamw, ("exp_avg", "exp_avg_sq"), ("eps", "maximize"), _betas),
    torch.optim.Adagrad: Rule(_adagrad, ("sum",), ("eps", "lr_decay", "maximize"), _no_settings),
    torch.optim.RMSprop: Rule(
        _rmsprop, ("square_avg", "momentum_buffer"), ("alpha", "momentum", "eps"), _no_settings
    ),
}
#: Options of a parameter group that no rule here carries out.
REFUSED = ("amsgrad", "maximize", "differentiable", "capturable", "centered")
