"""What a task's hooks are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scattershot as ss
from scattershot_worker.training.evaluation import evaluate
from scattershot_worker.training.hooks import Hooks, takes_params
from scattershot_worker.training.training import Training

CPU = torch.device("cpu")
X, Y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2


class Plain(ss.Task):
    """Overrides nothing."""

    def data(self) -> ss.Data:
        return ss.Data((X, Y), (X, Y))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Linear(3, 2)


class Given(Plain):
    """Every hook takes the hyperparameters: by keyword, with a default, or as it pleases."""

    def loss(self, outputs: Tensor, targets: Tensor, *, params: Any = None) -> Tensor:
        scale: float = params["scale"]
        return scale * super().loss(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor, params: Any = None) -> dict[str, float]:
        return {"scale": params["scale"], **super().metrics(outputs, targets)}

    def predictions(self, outputs: Tensor, params: Any = None) -> Tensor:
        return super().predictions(params["scale"] * outputs)

    def initial_loss(self, classes: int | None, params: Any = None) -> float | None:
        return float(params["scale"])

    def augment(self, x: Tensor, generator: torch.Generator, params: Any = None) -> Tensor:
        scale: float = params["scale"]
        return scale * x


class Old(Plain):
    """Hooks with the signatures they have always had."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return 2 * super().loss(outputs, targets)

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return 2 * x


def test_a_hook_that_takes_params_is_given_the_trials() -> None:
    hooks, plain = Hooks(Given(), {"scale": 3.0}), Hooks(Plain(), {"scale": 3.0})
    outputs = torch.randn(12, 2)
    assert hooks.loss(outputs, Y).item() == pytest.approx(3 * plain.loss(outputs, Y).item())
    assert hooks.metrics(outputs, Y) == {"scale": 3.0, **plain.metrics(outputs, Y)}
    assert torch.equal(hooks.predictions(outputs), (3 * outputs).softmax(1))
    assert hooks.initial_loss(2) == 3.0
    assert torch.equal(hooks.augment(X, torch.Generator()), 3 * X)


def test_hooks_without_params_go_on_working() -> None:
    hooks, outputs = Hooks(Old(), {"scale": 3.0}), torch.randn(12, 2)
    expected = nn.functional.cross_entropy(outputs, Y)
    assert hooks.loss(outputs, Y).item() == pytest.approx(2 * expected.item())
    assert torch.equal(hooks.augment(X, torch.Generator()), 2 * X)
    assert not any(takes_params(Old, hook) for hook in ("loss", "metrics", "augment"))


def test_training_and_evaluation_give_the_hooks_the_hyperparameters() -> None:
    params = {"scale": 3.0, "lr": 0.1}
    training = Training(Given(), params, seed=1, budget=1, device=CPU)
    training.begin_epoch(1, [])
    expected = 3 * nn.functional.cross_entropy(training.model(3 * X), Y)
    assert training.step(X, Y).item() == pytest.approx(expected.item())
    evaluation = evaluate(training.hooks, training.model, (X, Y), CPU)
    assert evaluation.metrics["scale"] == 3.0
    unscaled = evaluate(Hooks(Plain(), {}), training.model, (X, Y), CPU)
    assert evaluation.metrics["loss"] == pytest.approx(3 * unscaled.metrics["loss"])


def test_the_checks_give_the_hooks_the_hyperparameters() -> None:
    (result,) = ss.check(Given, {"scale": 3.0}, only=["initial_loss"], quiet=True)
    assert result.numbers["expected"] == 3.0
