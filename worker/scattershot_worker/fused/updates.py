"""Owns the update of a lane: torch's own optimizers, one kernel call for a row.

A lane's optimizer is the trial's own: its hyperparameters are read from it, and its state goes
into rows when the lane is admitted and comes out as the same `state_dict`. The kernels are those
that `torch.optim` calls with `fused=True`; they work element by element, so a row of all parameters
gives each the same numbers as a call for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Group = Mapping[str, Any]
Settings = dict[str, Any]
#: Row, gradient, first and second moments, and the steps counted, all of one group of one lane.
Update = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Settings], None]


def _sgd(row: Tensor, grad: Tensor, one: Tensor, two: Tensor, step: Tensor, now: Settings) -> None:
    torch._fused_sgd_([row], [grad], [one] if now["momentum"] else [], **now)
    now["is_first_step"] = False  # the first gradient is the first momentum


def _adam(row: Tensor, grad: Tensor, one: Tensor, two: Tensor, step: Tensor, now: Settings) -> None:
    torch._fused_adam_([row], [grad], [one], [two], [], [step], **now)


def _adamw(
    row: Tensor, grad: Tensor, one: Tensor, two: Tensor, step: Tensor, now: Settings
) -> None:
    torch._fused_adamw_([row], [grad], [one], [two], [], [step], **now)


def _adagrad(
    row: Tensor, grad: Tensor, one: Tensor, two: Tensor, step: Tensor, now: Settings
) -> None:
    torch._fused_adagrad_([row], [grad], [one], [step], **now)


def _rmsprop(
    row: Tensor, grad: Tensor, one: Tensor, two: Tensor, step: Tensor, now: Settings
) -> None:
    if now["weight_decay"]:
        grad = grad.add(row, alpha=now["weight_decay"])
    one.mul_(now["alpha"]).addcmul_(grad, grad, value=1 - now["alpha"])
    size = one.sqrt().add_(now["eps"])
    if now["momentum"]:
        two.mul_(now["momentum"]).addcdiv_(grad, size)
        row.add_(two, alpha=-now["lr"])
    else:
        row.addcdiv_(grad, size, value=-now["lr"])


def _betas(group: Group) -> Settings:
    beta1, beta2 = group["betas"]
    return {"beta1": beta1, "beta2": beta2, "amsgrad": False}


@dataclass(frozen=True)
class Rule:
    """How one kind of optimizer updates a row.

    `moments` are what it calls them; `reads` the settings it takes from a parameter group as they
    are, and `more` those it makes of one. `counts` says whether its state counts steps.
    """

    update: Update
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
