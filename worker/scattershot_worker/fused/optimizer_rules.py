"""Owns how each kind of optimizer updates a lane: torch's own, one kernel call for all parameters.

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


class Parts(NamedTuple):
    """Tensors of some of a lane's parameters, in their order."""

    weights: list[Tensor]
    grads: list[Tensor]
    one: list[Tensor]  #: first moments
    two: list[Tensor]  #: second moments
    steps: list[Tensor]  #: steps counted, each a scalar


def _sgd(parts: Parts, now: Settings) -> None:
    weights, grads, one, _, _ = parts
    torch._fused_sgd_(weights, grads, one if now["momentum"] else [], **now)
    now["is_first_step"] = False  # the first gradient is the first momentum


def _adam(parts: Parts, now: Settings) -> None:
    weights, grads, one, two, steps = parts
    torch._fused_adam_(weights, grads, one, two, [], steps, **now)


def _adamw(parts: Parts, now: Settings) -> None:
    weights, grads, one, two, steps = parts
    torch._fused_adamw_(weights, grads, one, two, [], steps, **now)


def _adagrad(parts: Parts, now: Settings) -> None:
    weights, grads, one, _, steps = parts
    torch._fused_adagrad_(weights, grads, one, steps, **now)


def _rmsprop(parts: Parts, now: Settings) -> None:
    weights, grads, one, two, _ = parts
    if now["weight_decay"]:
        grads = [*torch._foreach_add(grads, weights, alpha=now["weight_decay"])]
    torch._foreach_mul_(one, now["alpha"])
    torch._foreach_addcmul_(one, grads, grads, value=1 - now["alpha"])
    sizes = torch._foreach_sqrt(one)
    torch._foreach_add_(sizes, now["eps"])
    if now["momentum"]:
        torch._foreach_mul_(two, now["momentum"])
        torch._foreach_addcdiv_(two, grads, sizes)
        torch._foreach_add_(weights, two, alpha=-now["lr"])
    else:
        torch._foreach_addcdiv_(weights, grads, sizes, value=-now["lr"])


def _betas(group: Group) -> Settings:
    beta1, beta2 = group["betas"]
    return {"beta1": beta1, "beta2": beta2, "amsgrad": False}


@dataclass(frozen=True)
class Rule:
    """How one kind of optimizer updates a lane.

    `moments` are what it calls them; `reads` the settings it takes from a parameter group as they
    are, and `more` those it makes of one. `counts` says whether its state counts steps.
    """

    update: Callable[[Parts, Settings], None]
    moments: tuple[str, ...]
    reads: tuple[str, ...]
    more: Callable[[Group], Settings]
    counts: bool = True

    def settings(self, group: Group, *, fresh: bool) -> Settings:
        """Return what `update` wants to know; `fresh` says that no step has been done."""
        now = {name: group[name] for name in ("lr", "weight_decay", *self.reads)}
        now |= self.more(group)
        if not self.counts:
            now["is_first_step"] = fresh and bool(group["momentum"])
        return now

    def keeps(self, group: Group) -> tuple[str, ...]:
        """Return the moments that its state has under these settings."""
        return tuple(
            name for name in self.moments if name != "momentum_buffer" or group["momentum"]
        )


def _none(group: Group) -> Settings:
    return {}


_SGD = ("momentum", "dampening", "nesterov", "maximize")
RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.SGD: Rule(_sgd, ("momentum_buffer",), _SGD, _none, counts=False),
    torch.optim.Adam: Rule(_adam, ("exp_avg", "exp_avg_sq"), ("eps", "maximize"), _betas),
    torch.optim.AdamW: Rule(_adamw, ("exp_avg", "exp_avg_sq"), ("eps", "maximize"), _betas),
    torch.optim.Adagrad: Rule(_adagrad, ("sum",), ("eps", "lr_decay", "maximize"), _none),
    torch.optim.RMSprop: Rule(
        _rmsprop, ("square_avg", "momentum_buffer"), ("alpha", "momentum", "eps"), _none
    ),
}
#: Options of a parameter group that no rule here carries out.
REFUSED = ("amsgrad", "maximize", "differentiable", "capturable", "centered")
