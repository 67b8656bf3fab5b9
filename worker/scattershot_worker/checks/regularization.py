"""Check that regularization has an effect: more of it must raise the loss.

Notes: "Sanity checks Tips/Tricks" in neural-networks-3: "increasing the regularization strength
should increase the loss".
"""

from __future__ import annotations

import torch

from scattershot_common.task.check_result import CheckResult
from scattershot_worker.checks.task_under_test import TaskUnderTest, penalty, set_rate

_EXAMPLES = 256
#: Weight decays to compare.
_DECAYS = (0.0, 1e-3, 1e-2, 1e-1)
#: Strengths of dropout, and how often each loss is drawn.
_STRENGTHS, _DRAWS = (0.0, 0.5), 8
_NAME = "regularization"


def check(under_test: TaskUnderTest) -> CheckResult:
    """Compare the losses at rising weight decay, and with and without every dropout."""
    losses = {decay: _loss_with_decay(under_test, decay) for decay in _DECAYS}
    shrinks = _decay_shrinks_weights(under_test)
    dropouts = {
        name: [_loss_with_dropout(under_test, name, strength) for strength in _STRENGTHS]
        for name in under_test.regularizers()
        if "dropout" in name  # label smoothing and the like are the worker's own, and always work
    }
    rises = all(
        later > earlier
        for earlier, later in zip([*losses.values()], [*losses.values()][1:], strict=False)
    )
    numbers = {
        "weight_decay": [[decay, loss] for decay, loss in losses.items()],
        "weights_shrink": shrinks,
        **{name: [*zip(_STRENGTHS, both, strict=True)] for name, both in dropouts.items()},
    }
    steps = ", ".join(f"{loss:.4g} at {decay:g}" for decay, loss in losses.items())
    found = f"weight decay: loss {steps}"
    details = tuple(
        f"{name}: loss {both[0]:.4g} at {_STRENGTHS[0]:g}, {both[1]:.4g} at {_STRENGTHS[1]:g}"
        for name, both in dropouts.items()
    )
    unused = [name for name, (off, on) in dropouts.items() if off == on]
    if not rises or not shrinks:
        reason = "the loss does not rise with it" if not rises else "a step does not shrink weights"
        unsearched = "weight_decay" not in under_test.params
        return CheckResult(
            _NAME,
            "skipped" if unsearched and _own_optimizer(under_test) else "fail",
            found,
            f"The hyperparameter weight_decay has no effect: {reason}.",
            "Let Task.optimizer() hand params['weight_decay'] to the optimizer it makes, and take "
            "the weights into its parameters; or take weight_decay out of the space.",
            details,
            numbers,
        )
    if unused:
        return CheckResult(
            _NAME,
            "warn",
            found,
            f"In training mode the loss is the same with and without {' and '.join(unused)}.",
            f"Let the model read params[{unused[0]!r}], or take it out of the space: searching it "
            "costs trials and tells nothing.",
            details,
            numbers,
        )
    return CheckResult(
        _NAME, "pass", found, "Regularization has an effect.", details=details, numbers=numbers
    )


def _own_optimizer(under_test: TaskUnderTest) -> bool:
    return under_test.task.optimizer(under_test.model(), under_test.params) is not None


@torch.no_grad()
def _loss_with_decay(under_test: TaskUnderTest, decay: float) -> float:
    """Return the loss of the initial weights with the penalty of the optimizer's weight decay."""
    x, y = under_test.sample(_EXAMPLES)
    changes = {**under_test.unregularized(), "weight_decay": decay}
    model = under_test.model(**changes)
    data_loss = under_test.hooks(**changes).loss(model(x), y)
    return (data_loss + penalty(under_test.optimizer(model, **changes)).to(data_loss)).item()


def _decay_shrinks_weights(under_test: TaskUnderTest) -> bool:
    """Return whether a step with no gradient from the data makes the weights smaller."""
    changes = {**under_test.unregularized(), "weight_decay": _DECAYS[-1]}
    model = under_test.model(**changes)
    optimizer = under_test.optimizer(model, **changes)
    set_rate(optimizer, 1e-2)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = _squared_norm(model)
    optimizer.step()
    return _squared_norm(model) < before


def _squared_norm(model: torch.nn.Module) -> float:
    return sum(p.detach().double().square().sum().item() for p in model.parameters())


@torch.no_grad()
def _loss_with_dropout(under_test: TaskUnderTest, name: str, strength: float) -> float:
    """Return the mean loss of the initial weights in training mode, over a few draws of masks."""
    x, y = under_test.sample(_EXAMPLES)
    changes = {**under_test.unregularized(), name: strength}
    model, hooks = under_test.model(**changes), under_test.hooks(**changes)
    losses = [hooks.loss(model(x), y).item() for _ in range(_DRAWS)]
    return sum(losses) / len(losses)
