"""The check of the gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

import scattershot as ss
from support.checked_tasks import Blobs, Hinge, Line, Loaded, Pictures, checked


class Wrong(torch.autograd.Function):
    """The square, whose gradient is wrong by a factor."""

    factor = 1.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return 2 * Wrong.factor * x * grads[0]


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = Wrong.apply(x)  # type: ignore[no-untyped-call]
        return result


def with_model(make: Callable[[], nn.Module]) -> type[ss.Task]:
    class Given(Blobs):
        def model(self, params: Any) -> nn.Module:
            return make()

    return Given


def squares() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), Squared(), nn.Linear(16, 4))


@pytest.mark.parametrize("task", [Blobs, Line, Hinge, Loaded, Pictures])
def test_healthy_gradients_pass(task: type[ss.Task]) -> None:
    result = checked(task, "gradients")
    assert result.status == "pass", result
    assert result.numbers["relative_error"] < 1e-4
    assert result.numbers["with_regularization"] < 1e-4


def test_every_parameter_is_looked_at() -> None:
    result = checked(Pictures, "gradients")
    assert set(result.numbers["by_parameter"]) == {
        "0.weight", "0.bias", "1.weight", "1.bias", "6.weight", "6.bias"
    }  # fmt: skip
    assert result.numbers["outcomes"]["compared"] > 6 * 3


@pytest.mark.parametrize("factor", [0.5, -1.0, 1.05])
def test_a_wrong_backward_is_found(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    monkeypatch.setattr(Wrong, "factor", factor)
    result = checked(with_model(squares), "gradients")
    assert result.status == "fail" and result.numbers["relative_error"] > 0.01
    # the layer before the wrong one, and not the one behind it
    assert "0.weight" in result.meaning and "2.weight" not in result.meaning
    # though the error of the regularized one may be the larger
    assert "gradient of the data's loss" in result.meaning and "backward()" in result.remedy


class Branches(nn.Module):
    """A smooth network with a branch that hardly counts, whose backward may be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.branch = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) + 1e-6 * Squared()(self.branch(x))  # type: ignore[no-any-return]


def test_a_wrong_backward_of_small_gradients_is_no_kink(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checked(with_model(Branches), "gradients")
    monkeypatch.setattr(Wrong, "factor", 2.0)
    wrong = checked(with_model(Branches), "gradients")
    assert wrong.status == "fail" and "branch." in wrong.found
    assert right.status != "fail"
    for result in (right, wrong):
        assert not result.numbers["outcomes"].get("kink")


def test_a_backward_that_is_a_little_wrong_is_uncomfortable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Wrong, "factor", 1.002)
    result = checked(with_model(squares), "gradients")
    assert result.status == "warn" and "uncomfortable" in result.meaning


def test_the_same_function_with_a_right_backward_passes() -> None:
    assert checked(with_model(squares), "gradients").status == "pass"


def test_a_smooth_network_in_float64_is_a_reason_to_be_happy() -> None:
    class Smooth(Blobs):
        def model(self, params: Any) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 4))

    result = checked(Smooth, "gradients")
    assert result.numbers["relative_error"] < 1e-6
    assert result.status == "pass"


class AtTheKink(nn.Module):
    """Half of its units sit at the kink of a ReLU exactly, whatever the example."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 4)
        self.shift = nn.Parameter(torch.zeros(16))

    def forward(self, x: Tensor) -> Any:
        hidden = self.inner(x).detach() * 0 + self.shift + self.inner(x) * self.mask
        return self.outer(hidden.relu())

    @property
    def mask(self) -> Tensor:
        return (torch.arange(16) % 2).to(self.shift)


def test_kinks_are_left_out_and_told() -> None:
    result = checked(with_model(AtTheKink), "gradients", lr=0.0, weight_decay=0.0)
    assert result.numbers["outcomes"]["kink"] > 0
    assert result.status == "pass", result
    assert any("at a kink" in detail for detail in result.details)


def test_a_kink_that_hides_nothing_does_not_hide_a_wrong_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Wrong, "factor", 0.5)

    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Squared(), nn.ReLU(), nn.Linear(16, 4))

    assert checked(with_model(model), "gradients").status == "fail"


class CutOff(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 4)
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        return self.outer(self.inner(x).detach().tanh())


def test_a_layer_that_is_cut_off_from_its_gradient_is_found() -> None:
    result = checked(with_model(CutOff), "gradients")
    assert result.status == "fail"
    assert result.meaning.startswith("inner.weight, inner.bias changes the loss")
    assert "detach()" in result.remedy


def test_a_layer_that_is_not_used_is_told() -> None:
    class Idle(CutOff):
        def forward(self, x: Tensor) -> Any:
            return self.outer(self.inner(x).tanh())

    result = checked(with_model(Idle), "gradients")
    assert result.status == "warn"
    assert result.numbers["unused"] == ["idle.weight", "idle.bias"]


def test_a_layer_behind_which_all_units_are_dead_is_told() -> None:
    def model() -> nn.Module:
        dead = nn.Linear(8, 16)
        nn.init.constant_(dead.bias, -1e3)
        return nn.Sequential(dead, nn.ReLU(), nn.Linear(16, 4))

    result = checked(with_model(model), "gradients")
    assert result.status == "warn" and {"0.weight", "0.bias"} <= {*result.numbers["unused"]}


def test_dropout_written_as_a_function_is_seeded() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Any:
            return self.outer(nn.functional.dropout(self.inner(x).tanh(), 0.5, self.training))

    assert checked(with_model(Dropped), "gradients").status == "pass"


def test_a_network_that_is_tied_to_float32_is_skipped_with_the_reason() -> None:
    class Tied(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            zero = torch.from_numpy(np.zeros(4, np.float32))
            return nn.functional.linear(x, self.weight, zero)

    result = checked(with_model(lambda: Tied(8, 4)), "gradients")
    assert result.status == "skipped" and "float64" in result.found


def test_a_loss_that_follows_targets_made_float32_is_compared_in_float64() -> None:
    class Logit(Blobs):
        def model(self, params: Any) -> nn.Module:
            return nn.Linear(8, 1)

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            first = (targets == 0).float()
            return nn.functional.binary_cross_entropy_with_logits(outputs.squeeze(1), first)

    result = checked(Logit, "gradients")
    assert result.status == "pass" and float(str(result.numbers["relative_error"])) < 1e-7


def test_noise_that_no_seed_reaches_is_told() -> None:
    own = torch.Generator()

    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            noise = torch.randn(x.shape, generator=own).to(x)
            return super().forward(x + noise)

    result = checked(with_model(lambda: Noisy(8, 4)), "gradients")
    assert result.status == "skipped" and "same seed gives another loss" in result.found


def test_gradients_that_vanish_are_not_judged() -> None:
    class Vanishing(Blobs):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return super().loss(outputs, targets) * 1e-12 + 1

    result = checked(Vanishing, "gradients", lr=0.0)
    assert result.status == "warn" and result.numbers["outcomes"]["too small"] > 0
    assert "nothing to compare" in result.meaning
