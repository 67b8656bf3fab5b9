"""The checks that train: initial loss, regularization, overfitting, learning, rates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import scattershot as ss
from scattershot_worker.checks.lr_range_test import smoothed
from support.checked_tasks import Blobs, Hinge, Line, Loaded, Pictures, checked, curve, points

HEALTHY = [Blobs, Line, Hinge, Loaded, Pictures]
TRAINING = ["initial_loss", "regularization", "overfit", "learning", "rates"]


@pytest.mark.parametrize("task", HEALTHY)
@pytest.mark.parametrize("name", TRAINING)
def test_a_healthy_task_passes(task: type[ss.Task], name: str) -> None:
    result = checked(task, name)
    assert result.status == "pass", result


# the initial loss


def test_cross_entropy_begins_at_the_logarithm_of_the_classes() -> None:
    result = checked(Blobs, "initial_loss")
    assert result.numbers["expected"] == pytest.approx(math.log(4))
    assert "(ln 4)" in result.found


def test_a_hinge_loss_begins_at_the_classes_less_one() -> None:
    result = checked(Hinge, "initial_loss")
    assert result.numbers["expected"] == pytest.approx(3) and "(4 - 1)" in result.found


def test_the_expected_loss_can_be_declared() -> None:
    class Declared(Hinge):
        def initial_loss(self, classes: int | None) -> float:
            assert classes == 4
            return 30.0

    result = checked(Declared, "initial_loss")
    assert result.numbers["expected"] == 30 and "as the task declares" in result.found
    assert result.status == "warn" and "better than chance" in result.meaning


class Bold(Blobs):
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        model = super().model(params)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(12)
        return model


@pytest.mark.parametrize(
    ("last", "loss", "expected"),
    [
        (nn.LogSoftmax(1), F.nll_loss, math.log(4)),
        (nn.Softmax(1), lambda outputs, y: F.nll_loss(outputs.log(), y), math.log(4)),
        (nn.Identity(), F.multi_margin_loss, None),
    ],
)
def test_chance_is_told_of_models_that_end_in_probabilities(
    last: nn.Module, loss: Any, expected: float | None
) -> None:
    class Ends(Blobs):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Sequential(super().model(params), last)

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return loss(outputs, targets)  # type: ignore[no-any-return]

    result = checked(Ends, "initial_loss")
    assert result.status == "pass"
    if expected is not None:
        assert result.numbers["expected"] == pytest.approx(expected, rel=1e-4)
    assert checked(Ends, "overfit").status == "pass"


def test_chance_is_a_half_for_a_model_that_ends_in_a_sigmoid() -> None:
    class Ends(Blobs):
        def data(self) -> ss.Data:
            (x, y), (x_val, y_val) = points(400), points(100, seed=1)
            return ss.Data((x, (y > 1).float()), (x_val, (y_val > 1).float()))

        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 1), nn.Sigmoid(), nn.Flatten(0))

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.binary_cross_entropy(outputs, targets)

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            return {"accuracy": ((outputs > 0.5) == (targets > 0.5)).float().mean().item()}

    result = checked(Ends, "initial_loss")
    assert result.status == "pass"
    assert result.numbers["expected"] == pytest.approx(math.log(2), rel=1e-4)


def test_a_loss_of_which_chance_cannot_be_told_is_no_failure() -> None:
    class Odd(Blobs):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(outputs, targets) - F.cross_entropy(0 * outputs, targets)

    result = checked(Odd, "initial_loss")
    assert result.status == "pass" and "initial_loss()" in result.remedy


def test_outputs_that_are_more_than_the_targets_are_learned_by_heart() -> None:
    class Gauss(Blobs):
        kind = "regression"

        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.gaussian_nll_loss(outputs[:, 0], targets.float(), outputs[:, 1].exp())

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            return {"mae": (outputs[:, 0] - targets).abs().mean().item()}

    assert checked(Gauss, "overfit").status == "pass"


def test_weights_that_are_too_large_are_told() -> None:
    result = checked(Bold, "initial_loss")
    assert result.status == "fail" and "sure of wrong answers" in result.meaning


def test_the_initialization_that_the_study_names_is_looked_at() -> None:
    assert checked(Blobs, "initial_loss", init="normal").numbers["outputs_std"] < 0.02
    assert checked(Blobs, "initial_loss").numbers["outputs_std"] > 0.1


def test_a_loss_that_is_not_a_number_fails_everything_that_trains() -> None:
    class Broken(Blobs):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - outputs).mean().log() * outputs.mean()

    for name in ("initial_loss", "overfit", "learning", "rates"):
        assert checked(Broken, name).status == "fail", name


def test_outputs_for_classes_that_do_not_occur_are_told() -> None:
    class Wide(Blobs):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Linear(8, 100)

    assert "ln 100; the labels are of 4 classes" in checked(Wide, "initial_loss").found


# regularization


def test_dropout_that_the_model_does_not_read_is_told() -> None:
    class IgnoresDropout(Blobs):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return super().model({})

    result = checked(IgnoresDropout, "regularization")
    assert result.status == "warn" and "with and without dropout" in result.meaning


class OwnOptimizer(Blobs):
    def optimizer(self, model: nn.Module, params: Mapping[str, Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=params["lr"])


def test_weight_decay_that_the_optimizer_is_not_given_fails() -> None:
    result = checked(OwnOptimizer, "regularization")
    assert result.status == "fail" and "weight_decay has no effect" in result.meaning


def test_an_own_optimizer_without_weight_decay_in_the_space_is_skipped() -> None:
    params = {"lr": 0.1}
    (result,) = ss.check(OwnOptimizer, params, only=["regularization"], quiet=True)
    assert result.status == "skipped"


def test_more_weight_decay_costs_more() -> None:
    losses = [loss for _, loss in checked(Blobs, "regularization").numbers["weight_decay"]]
    assert losses == sorted(losses) and len(set(losses)) == 4


# overfitting


def test_a_network_that_is_cut_off_from_its_inputs_cannot_overfit() -> None:
    class Blind(Blobs):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Sequential(nn.Threshold(1e9, 0.0), nn.Linear(8, 4))

    result = checked(Blind, "overfit")
    assert result.status == "fail" and "cannot learn even these by heart" in result.meaning


def test_regularization_is_off_while_it_overfits() -> None:
    class Soaked(Blobs):
        """Its dropout is a hyperparameter of another name."""

        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.95), nn.Linear(32, 4))

    assert checked(Soaked, "overfit", weight_decay=10.0).status == "pass"


def test_a_regression_to_targets_far_from_zero_must_learn_more_than_their_mean() -> None:
    class Mean(Line):
        def data(self) -> ss.Data:
            x, y = curve()
            return ss.Data((x[:200], y[:200] + 100), (x[200:], y[200:] + 100))

        def model(self, params: Mapping[str, Any]) -> nn.Module:
            line = nn.Linear(3, 1)
            nn.init.constant_(line.bias, 90.0)
            return nn.Sequential(nn.Threshold(1e9, 0.0), line)

    result = checked(Mean, "overfit")
    assert result.status == "fail" and result.numbers["loss"] < 10


def test_examples_that_contradict_are_counted_when_it_cannot_overfit() -> None:
    class Torn(Blobs):
        def data(self) -> ss.Data:
            x, y = points(400)
            return ss.Data((x[:1].repeat(40, 1), y[:40]), points(100, seed=1))

    result = checked(Torn, "overfit")
    assert result.status == "fail" and "20 of them have the inputs of another" in result.details[0]


# learning


def test_labels_that_have_nothing_to_do_with_the_inputs_are_not_learned() -> None:
    class Shuffled(Blobs):
        def data(self) -> ss.Data:
            x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(1))
            y = torch.randint(4, (4000,), generator=torch.Generator().manual_seed(3))
            return ss.Data((x, y), points(100, seed=1))

        def model(self, params: Mapping[str, Any]) -> nn.Module:
            model = nn.Linear(8, 4)
            nn.init.zeros_(model.weight)
            nn.init.zeros_(model.bias)
            return model

    result = checked(Shuffled, "learning")
    assert result.status == "fail" and result.numbers["falls_at"] == []


def test_the_rates_at_which_the_loss_falls_are_named() -> None:
    numbers = checked(Blobs, "learning", optimizer="sgd").numbers
    assert 0.1 in numbers["falls_at"] and 1e-4 not in numbers["falls_at"]
    assert numbers["best"] == 0.1


# rates


def test_a_range_is_suggested_that_holds_rates_which_learn_and_none_that_blow_up() -> None:
    result = checked(Blobs, "rates", optimizer="sgd")
    low, high = result.numbers["suggested"]
    assert low < result.numbers["steepest"] <= high
    assert high / low > 20
    assert any(f"lr = {{ loguniform = [{low:g}, {high:g}] }}" in line for line in result.details)


def test_inputs_of_another_scale_have_another_range() -> None:
    class Large(Blobs):
        def data(self) -> ss.Data:
            x, y = points(400)
            return ss.Data((x * 30, y), points(100, seed=1))

    usual, large = (
        checked(task, "rates", optimizer="sgd").numbers["steepest"] for task in (Blobs, Large)
    )
    assert large < usual / 100  # inputs 30 times as large: slopes 900 times as steep


def test_a_curve_that_does_not_fall_suggests_nothing() -> None:
    class Flat(Blobs):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return 1 + 0 * outputs.mean()

    result = checked(Flat, "rates")
    assert result.status == "warn" and "suggested" not in result.numbers
    assert "no more than 0.0%" in result.found


def test_smoothing_does_not_lag() -> None:
    import numpy as np

    steps = np.arange(101.0)
    valley = (steps - 50) ** 2
    assert smoothed(valley).argmin() == 50


def test_accumulation_changes_no_rate_that_is_advised() -> None:
    for name, key in (("rates", "suggested"), ("learning", "ratios")):
        plain, accumulated = (checked(Blobs, name, accumulate=n) for n in (1, 16))
        assert plain.numbers[key] == accumulated.numbers[key], name


class Shifted(Line):
    """A loss that begins and ends below 0."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().loss(outputs, targets) - 20.0


class Stuck(Shifted):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().loss(outputs, targets) * 0.0 - 20.0


class Cosine(Line):
    """A loss that begins around 0 and falls below."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -F.cosine_similarity(outputs.flatten(), targets.flatten(), dim=0)


@pytest.mark.parametrize("task", [Shifted, Cosine])
def test_a_loss_below_0_that_falls_is_seen_to(task: type[ss.Task]) -> None:
    assert checked(task, "learning").status == "pass"
    assert checked(task, "initial_loss").status == "pass"


def test_a_loss_below_0_that_does_not_fall_is_learned_by_nobody() -> None:
    assert checked(Stuck, "overfit").status == "fail"
    assert checked(Stuck, "learning").status == "fail"
    assert checked(Cosine, "overfit").status == "pass"
