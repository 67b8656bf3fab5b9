"""Owns the check that regularization is at work: more of it must raise the loss.

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


def check(subject: TaskUnderTest) -> CheckResult:
    """Raise the weight decay, and every dropout, and watch the loss."""
    losses = {decay: _decayed(subject, decay) for decay in _DECAYS}
    shrinks = _shrinks(subject)
    others = {
        name: [_drawn(subject, name, strength) for strength in _STRENGTHS]
        for name in subject.regularizers()
        if "dropout" in name  # label smoothing and the like are the trainer's, and always work
    }
    rises = all(
        later > earlier
        for earlier, later in zip([*losses.values()], [*losses.values()][1:], strict=False)
    )
    numbers = {
        "weight_decay": [[decay, loss] for decay, loss in losses.items()],
        "weights_shrink": shrinks,
        **{name: [*zip(_STRENGTHS, both, strict=True)] for name, both in others.items()},
    }
    steps = ", ".join(f"{loss:.4g} at {decay:g}" for decay, loss in losses.items())
    found = f"weight decay: loss {steps}"
    details = tuple(
        f"{name}: loss {both[0]:.4g} at {_STRENGTHS[0]:g}, {both[1]:.4g} at {_STRENGTHS[1]:g}"
        for name, both in others.items()
    )
    idle = [name for name, (off, on) in others.items() if off == on]
    if not rises or not shrinks:
        why = "the loss does not rise with it" if not rises else "a step does not shrink weights"
        own = "weight_decay" not in subject.params
        return CheckResult(
            _NAME,
            "skipped" if own and _own_optimizer(subject) else "fail",
            found,
            f"The hyperparameter weight_decay has no effect: {why}.",
            "Let Task.optimizer() hand params['weight_decay'] to the optimizer it makes, and take "
            "the weights into its parameters; or take weight_decay out of the space.",
            details,
            numbers,
        )
    if idle:
        return CheckResult(
            _NAME,
            "warn",
            found,
            f"In training mode the loss is the same with and without {' and '.join(idle)}.",
            f"Let the model read params[{idle[0]!r}], or take it out of the space: searching it "
            "costs trials and tells nothing.",
            details,
            numbers,
        )
    return CheckResult(
        _NAME, "pass", found, "Regularization is at work.", details=details, numbers=numbers
    )


def _own_optimizer(subject: TaskUnderTest) -> bool:
    return subject.task.optimizer(subject.model(), subject.params) is not None


@torch.no_grad()
def _decayed(subject: TaskUnderTest, decay: float) -> float:
    """Return the loss of fresh weights with its penalty as the optimizer has it."""
    x, y = subject.sample(_EXAMPLES)
    changes = {**subject.unregularized(), "weight_decay": decay}
    model = subject.model(**changes)
    data_loss = subject.task.loss(model(x), y)
    return (data_loss + penalty(subject.optimizer(model, **changes)).to(data_loss)).item()


def _shrinks(subject: TaskUnderTest) -> bool:
    """Return whether a step with no gradient from the data makes the weights smaller."""
    changes = {**subject.unregularized(), "weight_decay": _DECAYS[-1]}
    model = subject.model(**changes)
    optimizer = subject.optimizer(model, **changes)
    set_rate(optimizer, 1e-2)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = _square(model)
    optimizer.step()
    return _square(model) < before


def _square(model: torch.nn.Module) -> float:
    return sum(p.detach().double().square().sum().item() for p in model.parameters())


@torch.no_grad()
def _drawn(subject: TaskUnderTest, name: str, strength: float) -> float:
    """Return the mean loss of fresh weights in training mode, over a few draws of its masks."""
    x, y = subject.sample(_EXAMPLES)
    model = subject.model(**{**subject.unregularized(), name: strength})
    losses = [subject.task.loss(model(x), y).item() for _ in range(_DRAWS)]
    return sum(losses) / len(losses)
