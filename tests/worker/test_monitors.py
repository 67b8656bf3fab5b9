import base64
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scattershot.store import files
from scattershot.store.layers import Layers
from scattershot.store.names import trial_folder
from scattershot.task import Data, Task
from scattershot.trial import MEASURED
from scattershot_worker.monitors import pictures, updates
from scattershot_worker.monitors.activations import Activations
from workbench import Workbench

PARAMS = {"lr": 0.1, "momentum": 0.9, "batch_size": 16}
SEEN = {"train_accuracy", "grad_norm", "weight_norm", "update_ratio", "dead_relu", "saturation"}


class Rings(Task):
    """Small images of two kinds, and a network with dropout and batch normalization."""

    def data(self) -> Data:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(120, 16, generator=generator)
        y = (x[:, :8].sum(1) > 0).long()
        return Data((x[:80], y[:80]), (x[80:], y[80:]))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(
            nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 2)
        )


@pytest.fixture
def bench(workbench: Workbench) -> Workbench:
    workbench.bench.studies["study"] = replace(workbench.info, metric="val_accuracy")
    return workbench


def switch_off(bench: Workbench) -> None:
    bench.bench.studies["study"] = replace(bench.bench.studies["study"], monitors=False)


def layers(bench: Workbench, trial: int = 7) -> list[dict[str, Any]]:
    return Layers.read(bench.folder, trial).lines


def test_looking_changes_no_number_of_the_training(bench: Workbench) -> None:
    bench.run(Rings(), 1, params=PARAMS)
    switch_off(bench)
    bench.run(Rings(), 2, params=PARAMS)
    watched, alone = bench.reported(1), bench.reported(2)
    for (_, one), (_, other) in zip(watched, alone, strict=True):
        assert set(one) - set(other) <= SEEN and {"grad_norm", "update_ratio"} <= set(one)
        assert all(one[name] == other[name] for name in other if name not in MEASURED)
    first, second = bench.last_tensors(1), bench.last_tensors(2)
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert layers(bench, 1) and layers(bench, 2) == []


def test_layers_are_recorded_at_powers_of_two_and_at_the_last_epoch(bench: Workbench) -> None:
    bench.run(Rings(), until=6, params=PARAMS)
    lines = layers(bench)
    assert [one["epoch"] for one in lines] == [1, 2, 4, 6]
    assert lines[0]["chance_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert lines[0]["val_examples"] == 40 and "initial_loss" not in lines[1]
    assert [one["name"] for one in lines[0]["parameters"]] == [
        *("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")
    ]
    assert sum(lines[0]["parameters"][0]["grads"]) == 16 * 12
    assert [one["kind"] for one in lines[0]["activations"]] == ["ReLU"]
    assert [("picture" in one) for one in lines] == [False, False, False, True]


def test_a_trial_that_goes_on_has_the_layers_of_one_that_never_stopped(bench: Workbench) -> None:
    bench.run(Rings(), 1, until=6, params=PARAMS)

    class Stopped(Rings):
        calls = 0

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            self.calls += 1
            if self.calls == 4:
                bench.signals.set("drain")
            return super().metrics(outputs, targets)

    assert bench.run(Stopped(), 2, until=6, params=PARAMS)[0] == "drain"
    half = Layers.read(bench.folder, 2)
    half.add({"epoch": 5, "from": "an attempt whose report was never accepted"})
    files.write(trial_folder(bench.folder, 2) / "layers.json", half.data(), sync=False)
    bench.states.requeue(2, 1, "drain", max_failures=3)
    assert bench.run(Rings(), 2, attempt=2, until=6, params=PARAMS) == ("ended", "complete")
    assert layers(bench, 1) == layers(bench, 2)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 9}', b'{"format": 1}', b"\xff"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, text: bytes) -> None:
    files.write(trial_folder(tmp_path, 3) / "layers.json", text, sync=False)
    assert Layers.read(tmp_path, 3).lines == []


def test_only_the_latest_line_has_a_picture() -> None:
    kept = Layers()
    kept.add({"epoch": 1, "picture": "a"})
    kept.add({"epoch": 2, "picture": "b"})
    assert json.loads(kept.data())["epochs"] == [{"epoch": 1}, {"epoch": 2, "picture": "b"}]


def test_norms_are_those_of_a_step_done_by_hand() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    step = updates.Step(dict(layer.named_parameters()))
    step.begin_epoch(histograms=True)
    layer.weight.grad = torch.tensor([[0.0, 0.5]])
    step.gradients()
    with torch.no_grad():
        layer.weight -= 0.1 * layer.weight.grad
    step.updated()
    (found,) = step.sizes()
    assert (found.grad, found.weight) == (0.5, 5.0)
    assert found.ratio == pytest.approx(0.05 / 5, rel=1e-5)
    counts = step.counts()["weight"]
    assert sum(counts) == 2 and counts[0] == 1 and counts[11] == 1  # 0, and 0.5: from 1e-1 to 1


def test_dead_units_and_saturated_ones_are_counted() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.tanh = nn.ReLU(), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x) + self.tanh(x)  # type: ignore[no-any-return]

    x = torch.tensor([[-1.0, 9.0, -9.0, 0.1], [-1.0, 9.0, 0.2, -0.1]])
    model, seen = Fixed(), Activations()
    with seen.watched(model):
        model(x)
        model(torch.zeros(2, 4))  # only the first batch is looked at
    relu, tanh = seen.lines()
    assert relu["dead"] == 0.25
    assert tanh["saturated"] == pytest.approx(3 / 8)
    assert not model.relu._forward_hooks


def test_first_weights_that_look_at_images_become_a_png() -> None:
    url = pictures.picture(nn.Sequential(nn.Linear(64, 5), nn.Linear(5, 2)).parameters())
    data = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG")
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (26, 17)
    assert pictures.picture(nn.Conv2d(3, 4, 5).parameters()).startswith("data:image/png")
    for other in (nn.Linear(7, 5), nn.Conv2d(2, 4, 3)):
        assert pictures.picture(other.parameters()) == ""
