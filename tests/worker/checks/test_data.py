"""The check of the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import scattershot as ss
from scattershot_common.task.check_result import CheckResult
from support.checked_tasks import Blobs, Line, Loaded, Pictures, checked, curve, points

Pair = tuple[Tensor, Tensor]


def check_data(train: Pair, val: Pair | None = None, task: type[ss.Task] = Blobs) -> CheckResult:
    """Return what the check finds when the task has this data."""

    class Given(task):  # type: ignore[misc, valid-type]
        def data(self) -> ss.Data:
            return ss.Data(train, val or points(100, seed=1))

    return checked(Given, "data")


def text_of(result: CheckResult) -> str:
    return " ".join([result.meaning, *result.details]).lower()


@pytest.mark.parametrize("task", [Blobs, Line, Loaded, Pictures])
def test_healthy_data_passes(task: type[ss.Task]) -> None:
    result = checked(task, "data")
    assert result.status == "pass", result
    assert result.numbers["shared"] == result.numbers["duplicates"] == 0


def test_the_data_of_digits_passes() -> None:
    (result,) = ss.check("digits", only=["data"], quiet=True)
    assert result.status == "pass" and result.numbers["class_counts"][3] > 50
    assert "3 of 64 features are the same" in text_of(result)


def test_values_that_are_not_finite_are_counted_with_their_place() -> None:
    x, y = points(400)
    x[7, 3], x[9, 0] = float("nan"), float("inf")
    result = check_data((x, y))
    assert result.status == "fail"
    assert "2 training examples have inputs that are not finite, the first is number 7" in text_of(
        result
    )


def test_labels_out_of_range_fail() -> None:
    x, y = points(400)
    result = check_data((x, y + 1))
    assert result.status == "fail"
    assert "100 training labels are out of range, as 4: the network's are 0 … 3" in text_of(result)


def test_negative_labels_fail_but_for_the_one_that_cross_entropy_leaves_out() -> None:
    x, y = points(400)
    y[0] = -1
    assert "1 training labels are out of range, as -1" in text_of(check_data((x, y)))
    y[0] = -100
    assert check_data((x, y)).status == "pass"


@pytest.mark.parametrize("make", [Tensor.long, Tensor.bool, lambda y: 2 * y.long() - 1])
def test_one_output_tells_two_classes_apart(make: Any) -> None:
    class Logit(Blobs):
        def model(self, params: Any) -> nn.Module:
            return nn.Linear(8, 1)

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return functional.soft_margin_loss(outputs, targets.view_as(outputs))

    (x, y), (val_x, val_y) = points(400), points(100, seed=1)
    result = check_data((x, make(y > 1)), (val_x, make(val_y > 1)), Logit)
    assert result.status == "pass", result
    assert result.numbers["classes"] == 2


def test_classes_of_sequences_are_counted_on_their_axis() -> None:
    class Words(Blobs):
        def model(self, params: Any) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 12), nn.Unflatten(1, (2, 6)))

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    (x, y), (val_x, val_y) = points(400), points(100, seed=1)
    both = torch.stack([y, y + 2], 1), torch.stack([val_y, val_y + 2], 1)
    assert check_data((x, both[0]), (val_x, both[1]), Words).status == "pass"


def test_examples_in_both_parts_fail() -> None:
    x, y = points(400)
    val_x, val_y = points(100, seed=1)
    result = check_data((x, y), (torch.cat([val_x, x[:5]]), torch.cat([val_y, y[:5]])))
    assert result.status == "fail" and result.numbers["shared"] == 5
    assert "5 of 105 validation examples are in the training part as well" in text_of(result)


def test_an_example_with_minus_zero_is_the_same_as_one_with_zero() -> None:
    x, y = points(400)
    val_x, val_y = points(100, seed=1)
    x[0, 0], val_x[0] = 0.0, x[0]
    val_x[0, 0] = -0.0
    assert check_data((x, y), (val_x, val_y)).numbers["shared"] == 1


def test_repeated_examples_that_contradict_are_told() -> None:
    x, y = points(400)
    x[100:104] = x[0]
    result = check_data((x, y))
    assert result.status == "warn"
    assert "4 training examples are repeated, 3 of them with other targets" in text_of(result)


def test_a_class_that_is_rare_is_told_with_what_always_guessing_gives() -> None:
    x, y = points(400)
    keep = (y != 2) | (torch.arange(400) < 20)
    result = check_data((x[keep], y[keep]))
    assert result.status == "warn"
    assert (
        "100 examples of class 0, 5 of the rarest; always answering 0 is right in 33%"
        in text_of(result)
    )


def test_a_class_of_the_validation_part_alone_is_told() -> None:
    x, y = points(400)
    assert "class 3 occurs in the validation part only" in text_of(check_data((x[y < 3], y[y < 3])))


@pytest.mark.parametrize(("factor", "shift"), [(100.0, 0.0), (1e-3, 0.0), (1.0, 5.0)])
def test_inputs_that_are_not_normalized_are_told(factor: float, shift: float) -> None:
    x, y = points(400)
    result = check_data((x * factor + shift, y))
    assert result.status == "warn" and "not normalized" in result.meaning
    assert "divide by its deviation" in result.remedy


def test_a_feature_on_another_scale_is_told() -> None:
    x, y = points(400)
    x[:, 2] *= 50
    x *= 0.05
    assert "features are on different scales" in text_of(check_data((x, y)))


def test_features_and_examples_that_are_constant_are_told() -> None:
    x, y = points(400)
    x[:, 5] = 0.5
    x[3] = 0.5
    result = check_data((x, y))
    assert result.status == "warn"
    assert "1 of 8 features are the same" in text_of(result)
    assert "1 training examples have the same value in every feature" in text_of(result)


def test_inputs_that_are_all_the_same_fail() -> None:
    _, y = points(400)
    assert "all training inputs are the same" in check_data((torch.ones(400, 8), y)).meaning.lower()


def test_whole_numbers_need_no_normalization() -> None:
    class Ids(Blobs):
        def data(self) -> ss.Data:
            parts = ((points(n, n)[0] * 1000).long() for n in (400, 100))
            train, val = ((x, torch.arange(len(x)) % 4) for x in parts)
            return ss.Data(train, val)

        def model(self, params: Mapping[str, Any]) -> torch.nn.Module:
            return Bag()

    result = checked(Ids, "data")
    assert result.status == "pass" and "normalization has no meaning" in text_of(result)


class Bag(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x.remainder(7).to(self.weight) @ self.weight


@pytest.mark.parametrize(("factor", "shift"), [(1e4, 0.0), (1.0, 50.0)])
def test_targets_of_a_regression_that_are_not_normalized_are_told(
    factor: float, shift: float
) -> None:
    class Far(Line):
        def data(self) -> ss.Data:
            x, y = curve()
            y = y * factor + shift
            return ss.Data((x[:200], y[:200]), (x[200:], y[200:]))

    result = checked(Far, "data")
    assert result.status == "warn" and "Targets are not normalized" in result.meaning


def test_parts_that_were_prepared_differently_fail() -> None:
    x, y = points(400)
    assert "float64" in text_of(check_data((x, y), (x[:50].double(), y[:50])))


def test_a_loader_is_read_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    from scattershot_worker.checks import data

    monkeypatch.setattr(data, "_MAX_EXAMPLES", 64)

    class Endless(Blobs):
        def data(self) -> ss.Data:
            x, y = points(400)
            return ss.Data(DataLoader(TensorDataset(x, y), 32), points(100, seed=1))

    result = checked(Endless, "data")
    assert result.numbers["train"] == 64
    assert "only the first 64 examples of a loader are read" in text_of(result)
