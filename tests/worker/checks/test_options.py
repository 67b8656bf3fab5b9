"""The check of augmentation, mixed precision and the compiler."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scattershot as ss
from support.checked_tasks import PARAMS, Blobs, Loaded, Pictures, checked


def compiling(monkeypatch: pytest.MonkeyPatch, **how: Any) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, **how))


class Shaken(Blobs):
    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x + 0.01 * torch.randn(x.shape, generator=generator)


def test_what_is_not_asked_for_is_not_tried() -> None:
    assert checked(Blobs, "options").status == "skipped"


@pytest.mark.parametrize("task", [Shaken, Loaded, Pictures])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_options_that_work_pass_and_the_checks_without_them_are_told(
    task: type[ss.Task], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling(monkeypatch, backend="eager")
    result = checked(task, "options", precision=precision, compile=True)
    assert result.status == "pass", result
    assert f"precision {precision}, compile" in result.found
    assert ("augment" in result.found) == (task is Shaken)
    assert any("`learning` and `rates`" in detail for detail in result.details)
    assert result.numbers["losses"][0] != result.numbers["plain_losses"][0]


def augmenting(change: Any) -> Any:
    return checked(
        type("Changed", (Blobs,), {"augment": lambda self, x, g: change(x, g)}), "options"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x, g: x[:-1], "makes shape [31, 8] of a batch of shape [32, 8]"),
        (lambda x, g: None, "makes NoneType"),
        (lambda x, g: x.double(), "makes torch.float64 on cpu of torch.float32 on cpu"),
        (lambda x, g: x / 0, "makes values that are not finite"),
    ],
)
def test_an_augmentation_that_spoils_the_batch_fails(change: Any, says: str) -> None:
    result = augmenting(change)
    assert result.status == "fail" and says in result.found


def test_an_augmentation_that_draws_from_elsewhere_is_told() -> None:
    result = augmenting(lambda x, g: x + 0.1 * torch.randn(x.shape))
    assert result.status == "warn" and "the same generator" in result.found


def test_an_augmentation_that_raises_fails() -> None:
    result = augmenting(lambda x, g: x.no_such_thing())
    assert result.status == "fail" and "no_such_thing" in result.found


class Large(Blobs):
    """Beyond what fp16 can hold between its layers, though the weights begin as small as ever."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x * 1e6) / 1e6)  # type: ignore[no-any-return]

    def model(self, params: Any) -> nn.Module:
        return self.Net()


def test_a_network_that_overflows_in_half_precision_fails_and_bf16_is_advised() -> None:
    result = checked(Large, "options", precision="fp16")
    assert result.status == "fail" and "bf16" in result.remedy
    assert result.numbers["skipped_steps"] == 10
    assert checked(Large, "options", precision="bf16").status == "pass"


def test_a_compiler_that_does_not_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    compiling(monkeypatch, backend=broken)
    result = checked(Blobs, "options", compile=True)
    assert result.status == "fail" and "compile = true does not work here" in result.found


def test_a_compiler_that_computes_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, inputs: Any) -> Any:
        return lambda *given: [2 * out for out in graph.forward(*given)]

    compiling(monkeypatch, backend=wrong)
    result = checked(Blobs, "options", compile=True)
    assert result.status == "warn" and "another loss" in result.meaning


def test_learning_and_the_range_test_train_as_the_trainer_does() -> None:
    dtypes: list[torch.dtype] = []

    class Watched(Shaken):
        calls = 0

        def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
            type(self).calls += 1
            return super().augment(x, generator)

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            dtypes.append(outputs.dtype)
            return super().loss(outputs, targets)

    for name in ("learning", "rates"):
        Watched.calls = 0
        dtypes.clear()
        assert checked(Watched, name, precision="bf16", compile=True).status == "pass"
        assert Watched.calls >= 100 and dtypes.count(torch.bfloat16) == Watched.calls


def test_dropout_layers_of_a_kept_model_stay_what_they_are() -> None:
    class Kept(Shaken):
        kept: nn.Module | None = None

        def model(self, params: Any) -> nn.Module:
            self.kept = self.kept or super().model(params)
            return self.kept

    task = Kept()
    ss.check(task, PARAMS, only=["options", "learning", "rates"], quiet=True)
    assert task.kept is not None
    assert [type(module) for module in task.kept.modules()].count(nn.Dropout) == 1
