"""What monitors record of a training: history, layer records, and no change of its numbers."""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.store.layer_stats import LayerStats
from scattershot_common.store.local import LocalStore
from scattershot_common.task.task import Data, Task
from scattershot_common.trial import MEASURED
from scattershot_worker.monitors import metrics, updates
from scattershot_worker.monitors.activations import Activations
from scattershot_worker.monitors.layer_record import first_layer_tiles
from scattershot_worker.training.hooks import Hooks
from support import checkpoints
from support.checkpoints import trial_folder
from support.workbench import Workbench

PARAMS = {"lr": 0.1, "momentum": 0.9, "batch_size": 16}
NORMS = {"grad_norm", "weight_norm", "update_ratio"}
MONITORED = {"train_accuracy", "dead_relu", "saturation", "initial_loss", "chance_loss"} | NORMS


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
    workbench.context.studies["study"] = replace(workbench.info, metric="val_accuracy")
    return workbench


def switch_off(bench: Workbench) -> None:
    bench.context.studies["study"] = replace(bench.context.studies["study"], monitors=False)


def layers(bench: Workbench, trial: int = 7) -> list[dict[str, Any]]:
    return LayerStats.read(LocalStore(bench.folder), trial).lines


def test_looking_changes_no_number_of_the_training(bench: Workbench) -> None:
    bench.run(Rings(), 1, params=PARAMS)
    switch_off(bench)
    bench.run(Rings(), 2, params=PARAMS)
    monitored, alone = bench.reported(1), bench.reported(2)
    for (_, with_monitor), (_, without) in zip(monitored, alone, strict=True):
        assert set(with_monitor) - set(without) <= MONITORED and "train_accuracy" in with_monitor
        assert all(with_monitor[name] == without[name] for name in without if name not in MEASURED)
    first, second = bench.last_tensors(1), bench.last_tensors(2)
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert layers(bench, 1) and layers(bench, 2) == []


def test_layers_are_recorded_as_steps_double_and_at_the_last_epoch(bench: Workbench) -> None:
    bench.run(Rings(), until=8, params=PARAMS | {"batch_size": 2})  # 40 steps
    lines = layers(bench)
    assert [record["epoch"] for record in lines] == [1, 7, 8]
    assert lines[0]["val_examples"] == 40
    assert [record["name"] for record in lines[0]["parameters"]] == [
        *("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")
    ]
    assert sum(lines[0]["parameters"][0]["grads"]) == 16 * 12
    assert [record["kind"] for record in lines[0]["activations"]] == ["ReLU"]
    assert [("picture" in record) for record in lines] == [False, False, True]
    (before,) = lines[0]["initial_activations"]
    assert before["name"] == "2" and before != lines[0]["activations"][0]


def test_a_short_trial_is_looked_at_after_its_first_epoch_alone(bench: Workbench) -> None:
    bench.run(Rings(), until=3, params=PARAMS)
    (line,) = layers(bench)
    assert line["epoch"] == 1 and line["activations"]
    assert "initial_activations" not in line
    assert not any("grads" in parameter for parameter in line["parameters"])


def test_the_first_epoch_tells_the_losses_that_training_begins_with(bench: Workbench) -> None:
    bench.run(Rings(), 1, params=PARAMS)
    first, *others = [line for _, line in bench.reported(1)]
    assert first["chance_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert 0.5 < first["initial_loss"] < 1.5
    assert not any({"chance_loss", "initial_loss"} & set(line) for line in others)


@pytest.mark.parametrize(
    ("targets", "chance"), [([1.0, 3.0], 1.0), ([[0.0, 10.0], [2.0, 10.0]], 0.5)]
)
def test_knowing_nothing_of_numbers_costs_their_variance(targets: Any, chance: float) -> None:
    class Numbers(Rings):
        kind = "regression"

    y = torch.tensor(targets)
    assert metrics.initial_losses(Hooks(Numbers(), {}), 7.0, torch.zeros(2, 1), y, 32) == {
        "initial_loss": 7.0,
        "chance_loss": chance,
    }


def test_what_a_task_declares_is_the_loss_of_knowing_nothing() -> None:
    class Declared(Rings):
        def initial_loss(self, classes: int | None) -> float | None:
            assert classes == 3
            return 2.0

    class Hinge(Rings):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return 3 * F.multi_margin_loss(outputs, targets, reduction="sum")

    class Probabilities(Rings):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.nll_loss((outputs + 1e-9).log(), targets)  # fewer than tell probabilities

    class Broken(Rings):
        def initial_loss(self, classes: int | None) -> float | None:
            raise ValueError

    outputs, y = torch.zeros(3, 3), torch.tensor([0, 2, 1])
    assert metrics.initial_losses(Hooks(Declared(), {}), 7.0, outputs, y, 3)["chance_loss"] == 2.0
    # C - 1, of as many examples as are summed up in a batch
    assert metrics.initial_losses(Hooks(Hinge(), {}), 5.0, outputs, y, 2)["chance_loss"] == 4.0
    assert "chance_loss" not in metrics.initial_losses(
        Hooks(Probabilities(), {}), 1.1, outputs, y, 3
    )
    assert metrics.initial_losses(Hooks(Broken(), {}), 7.0, outputs, y, 3) == {"initial_loss": 7.0}


def test_every_metric_of_a_task_is_told_of_the_training_part(bench: Workbench) -> None:
    class Own(Rings):
        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            accuracy = super().metrics(outputs, targets)["accuracy"]
            return {"percent": 100 * accuracy, "noise": torch.rand(1).item(), "loss": 1.0}

    class Without(Rings):
        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            if len(targets) != 40:
                raise ValueError("made for the validation part")
            return super().metrics(outputs, targets)

    bench.run(Own(), 1, params=PARAMS)
    for _, line in bench.reported(1):
        assert 30 < line["train_percent"] <= 100 and 0 <= line["train_noise"] <= 1
        assert line["train_loss"] != 1.0
    bench.run(Without(), 2, params=PARAMS)
    assert not any("train_accuracy" in line for _, line in bench.reported(2))


def test_of_huge_outputs_few_are_kept() -> None:
    outputs, targets = torch.zeros(16, 3, 700, 700), torch.zeros(16)
    kept, kept_targets = metrics.kept_outputs(outputs, targets)
    assert len(kept) == len(kept_targets) == 1 and kept.untyped_storage().nbytes() < 6e6
    assert metrics.kept_outputs(outputs[:, :, 0, 0], targets)[0].shape == (16, 3)


def test_updates_are_observed_at_one_step_in_128(bench: Workbench) -> None:
    def observed(trial: int, batch_size: int) -> list[int]:
        bench.run(Rings(), trial, until=12, params={**PARAMS, "batch_size": batch_size})
        history = [line for _, line in bench.reported(trial)]
        return [epoch for epoch, line in enumerate(history, 1) if NORMS & set(line) == NORMS]

    assert observed(1, batch_size=16) == [1, 12]  # of 5 steps: every 26th, and close looks
    assert observed(2, batch_size=3) == [1, 5, 10, 12]  # of 27: every fifth


def test_a_trial_that_goes_on_has_the_layers_of_one_that_never_stopped(bench: Workbench) -> None:
    params = PARAMS | {"batch_size": 2}
    bench.run(Rings(), 1, until=8, params=params)

    class Stopped(Rings):
        calls = 0

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            self.calls += 1
            if self.calls == 8:  # an epoch has two
                bench.signals.set(StopReason.DRAIN)
            return super().metrics(outputs, targets)

    assert bench.run(Stopped(), 2, until=8, params=params)[0] == "drain"
    half = LayerStats.read(LocalStore(bench.folder), 2)
    half.add({"epoch": 5, "from": "an attempt whose report was never accepted"})
    checkpoints.write(trial_folder(bench.folder, 2) / "layers.json", half.data(), sync=False)
    bench.states.requeue(2, 1, Outcome.DRAIN, max_failures=3)
    assert bench.run(Rings(), 2, attempt=2, until=8, params=params) == ("ended", "complete")
    assert layers(bench, 1) == layers(bench, 2) and len(layers(bench, 1)) == 3


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 9}', b'{"format": 1}', b"\xff"])
def test_a_damaged_file_counts_as_none(tmp_path: Path, text: bytes) -> None:
    checkpoints.write(trial_folder(tmp_path, 3) / "layers.json", text, sync=False)
    assert LayerStats.read(LocalStore(tmp_path), 3).lines == []


def test_only_the_latest_line_has_a_picture() -> None:
    layer_stats = LayerStats()
    layer_stats.add({"epoch": 1, "picture": "a"})
    layer_stats.add({"epoch": 2, "picture": "b"})
    assert json.loads(layer_stats.data())["epochs"] == [{"epoch": 1}, {"epoch": 2, "picture": "b"}]


class Functions(Task):
    """As `Rings`, but for a network that calls its activations as functions, and no dropout."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(16, 12), nn.BatchNorm1d(12)
            self.second, self.last = nn.Linear(12, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = F.relu(self.norm(self.first(x)), inplace=True)
            out = torch.tanh(self.second(out))
            return self.last(F.gelu(out))  # type: ignore[no-any-return]

    def data(self) -> Data:
        return Rings().data()

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return self.Net()


def test_activations_that_are_called_as_functions_are_seen(bench: Workbench) -> None:
    bench.run(Functions(), until=8, params=PARAMS | {"batch_size": 2})
    lines = layers(bench)
    assert len(lines) == 3  # also after the first look
    for line in lines:
        assert [(record["name"], record["kind"]) for record in line["activations"]] == [
            ("relu after norm", "ReLU"),
            ("tanh after second", "Tanh"),
            ("gelu after second", "GELU"),
        ]
        relu, tanh, _ = line["activations"]
        assert "dead" in relu and "saturated" in tanh
    assert {"dead_relu", "saturation"} <= set(bench.reported()[0][1])


@pytest.mark.parametrize(
    "function", [torch.relu, F.relu, F.relu_, Tensor.relu, Tensor.relu_, torch.relu_]
)
def test_units_that_a_function_leaves_dead_are_counted(function: Any) -> None:
    class Called(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x.clone()).mul_(0)  # type: ignore[no-any-return]

    activations = Activations()
    with activations.observe(model := Called()):
        model(torch.tensor([[-1.0, 1.0, -1.0, 0.5], [-1.0, 1.0, 1.0, -0.5]]))
        torch.tanh(torch.ones(2, 2))  # not in the model: a loss may call it
    (line,) = activations.records()
    assert line == {"name": "relu", "kind": "ReLU", "dead": 0.25, "mean": 0.4375} | {
        "std": pytest.approx(0.4635, rel=1e-3)
    }


def test_what_is_seen_of_layers_alone_is_the_model_that_has_no_activations() -> None:
    activations = Activations()
    with activations.observe(model := nn.Linear(3, 2)):
        model(torch.ones(4, 3))
    assert [(record["name"], record["kind"]) for record in activations.records()] == [
        ("", "Linear")
    ]


def test_a_model_that_fails_while_it_is_looked_at_is_left_as_it_was() -> None:
    activations, model = Activations(), nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with pytest.raises(RuntimeError), activations.observe(model):
        model(torch.ones(4, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not torch.overrides._get_current_function_mode_stack()


def test_torchs_attention_gives_the_same_numbers_while_it_is_looked_at() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, activations = torch.randn(8, 5, 16), Activations()
    with torch.no_grad():
        plain = model(x)
        with activations.observe(model):
            looked_at = model(x)
    assert torch.equal(plain, looked_at)
    assert [record["name"] for record in activations.records()] == [
        "relu after layers.0.linear1",
        "relu after layers.1.linear1",
    ]


def test_a_compiled_model_is_looked_at_and_compiled_once(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiler(model, backend=backend))
    assert bench.run(Functions(), 1, params=PARAMS | {"compile": True}) == ("ended", "complete")
    assert len(compiled) == 1
    bench.run(Functions(), 2, params=PARAMS)
    assert layers(bench, 1) == layers(bench, 2)
    for (_, first), (_, second) in zip(bench.reported(1), bench.reported(2), strict=True):
        assert all(first[name] == second[name] for name in second if name not in MEASURED)


@pytest.mark.parametrize("first", [True, False])
def test_a_trial_goes_on_compiled_or_not_from_either_checkpoint(
    first: bool, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, params = torch.compile, PARAMS | {"compile": True}

    def compiling(on: bool) -> None:
        how = partial(compiler, backend="eager") if on else lambda model: model
        monkeypatch.setattr(torch, "compile", how)

    class Stopped(Functions):
        calls = 0

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            self.calls += 1
            if self.calls == 3:  # an epoch has two: of its last batches, and the validation part's
                bench.signals.set(StopReason.DRAIN)
            return super().metrics(outputs, targets)

    bench.run(Functions(), 1, params=PARAMS)
    compiling(first)
    assert bench.run(Stopped(), 2, params=params)[0] == "drain"
    assert 0 < len(bench.reported(2)) < 4
    bench.states.requeue(2, 1, Outcome.DRAIN, max_failures=3)
    compiling(not first)
    assert bench.run(Functions(), 2, attempt=2, params=params) == ("ended", "complete")
    first_tensors, second_tensors = bench.last_tensors(1), bench.last_tensors(2)
    assert set(first_tensors) == set(second_tensors)  # no names of a compiled module's own
    assert all(torch.equal(first_tensors[name], second_tensors[name]) for name in first_tensors)


def test_norms_are_those_of_a_step_done_by_hand() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0]]))
    monitor = updates.UpdateMonitor(dict(layer.named_parameters()))
    monitor.begin_epoch(with_histograms=True)
    layer.weight.grad = torch.tensor([[0.0, 0.5]])
    monitor.gradients()
    with torch.no_grad():
        layer.weight -= 0.1 * layer.weight.grad
    monitor.updated()
    (norms,) = monitor.norms()
    assert (norms.grad, norms.weight) == (0.5, 5.0)
    assert norms.ratio == pytest.approx(0.05 / 5, rel=1e-5)
    layer.weight.grad.zero_()  # as clipping may, in place
    counts = monitor.histograms()["weight"]
    assert sum(counts) == 2 and counts[0] == 1 and counts[11] == 1  # 0, and 0.5: from 1e-1 to 1


@pytest.mark.parametrize("shape", [(32, 32), (64, 48), (8, 3, 16, 16), (5, 4096), (3000, 1)])
def test_elements_that_are_counted_lie_in_all_columns(shape: tuple[int, ...]) -> None:
    columns = torch.arange(math.prod(shape[1:])).view(1, *shape[1:]).expand(shape)
    sample = updates.sample(columns.flatten(), shape[0])
    assert len(sample) <= updates.ELEMENTS
    sampled_columns, all_columns = len(sample.unique()), math.prod(shape[1:])
    assert sampled_columns >= min(all_columns, len(sample)) * 0.9


def test_what_is_no_number_is_not_counted() -> None:
    elements = torch.tensor([math.nan, math.inf, -math.inf, 1e-30, 2e-5, 2e-4])
    (counts,) = updates.histograms(elements, [6])
    assert counts == [1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 2]


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(-1)


def test_a_model_without_matrices_is_looked_at(bench: Workbench) -> None:
    class Scaled(Rings):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Sequential(nn.BatchNorm1d(16), nn.Unflatten(1, (2, 8)), Mean())

    assert bench.run(Scaled(), params=PARAMS) == ("ended", "complete")
    assert all("grads" not in parameter for parameter in layers(bench)[0]["parameters"])


def test_dead_units_and_saturated_ones_are_counted() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.tanh = nn.ReLU(), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x) + self.tanh(x)  # type: ignore[no-any-return]

    x = torch.tensor([[-1.0, 9.0, -9.0, 0.1], [-1.0, 9.0, 0.2, -0.1]])
    model, activations = Fixed(), Activations()
    with activations.observe(model):
        model(x)
        model(torch.zeros(2, 4))  # only the first batch is looked at
    relu, tanh = activations.records()
    assert relu["dead"] == 0.25
    assert tanh["saturated"] == pytest.approx(3 / 8)
    assert not model.relu._forward_hooks


def test_units_of_a_convolution_are_channels_whatever_its_dimensions() -> None:
    def dead(model: nn.Module, x: Tensor) -> list[float]:
        activations = Activations()
        for _ in range(2):  # the second time only modules are looked at
            with activations.observe(model):
                model(x)
        return [record["dead"] for record in activations.records()]

    for kind, shape in ((nn.Conv1d, (8, 3, 20)), (nn.Conv2d, (8, 3, 5, 5))):
        layer = kind(3, 4, 3)
        assert layer.bias is not None
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([1e3, -1e3, -1e3, -1e3]))
        assert dead(nn.Sequential(layer, nn.ReLU()), torch.randn(shape)) == [0.75]
        norm = nn.BatchNorm1d(4) if kind is nn.Conv1d else nn.BatchNorm2d(4)
        assert dead(nn.Sequential(layer, norm.eval(), nn.ReLU()), torch.randn(shape)) == [0.75]
    tokens = nn.Linear(6, 4)
    nn.init.constant_(tokens.bias, -1e3)
    assert dead(nn.Sequential(tokens, nn.ReLU()), torch.randn(8, 5, 6)) == [1.0]


def test_an_activation_that_is_used_twice_is_seen_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.act = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()
            nn.init.constant_(self.second.bias, -1e3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.second(self.act(self.first(x))))
            for _ in range(9):
                x = F.relu(x)
            return x

    activations, model = Activations(), Twice()
    with activations.observe(model):
        model(torch.randn(8, 4))
    lines = {record["name"]: record for record in activations.records()}
    assert lines["act (2)"]["dead"] == 1.0 > lines["act"]["dead"]
    assert [*lines][2:] == ["relu after second", *(f"relu after second ({n})" for n in (2, 3, 4))]


def test_first_weights_that_look_at_images_become_tiles() -> None:
    first = nn.Linear(64, 5)
    tiles = first_layer_tiles(nn.Sequential(first, nn.Linear(5, 2)).parameters())
    assert tiles is not None and tiles["shape"] == [5, 8, 8, 1]
    pixels = torch.tensor([*base64.b64decode(tiles["pixels"])]).view(5, 64)
    assert (pixels.amin(1) == 0).all() and (pixels.amax(1) == 255).all()
    assert torch.equal(pixels.argmax(1), first.weight.argmax(1))
    tiles = first_layer_tiles(nn.Conv2d(3, 4, 5).parameters())
    assert tiles is not None and tiles["shape"] == [4, 5, 5, 3]
    for other in (nn.Linear(7, 5), nn.Conv2d(2, 4, 3)):
        assert first_layer_tiles(other.parameters()) is None
