"""Trials of task classes that train alone, from the job to the last report."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.task.task import Data, Task
from scattershot_common.trial import MEASURED, Value
from scattershot_worker.training.evaluation import evaluate
from scattershot_worker.training.hooks import Hooks
from support import checkpoints
from support.toy_task import Toy, points, with_data
from support.workbench import Workbench

CPU = torch.device("cpu")


@pytest.fixture
def bench(workbench: Workbench) -> Workbench:
    workbench.context.studies["study"] = StudyInfo(
        **{**asdict(workbench.info), "metric": "val_acc"}
    )
    return workbench


def metrics(bench: Workbench, trial: int = 7) -> list[dict[str, float]]:
    """Return the reported metrics without what the machine decides."""
    return [
        {name: value for name, value in line.items() if name not in MEASURED}
        for _, line in bench.reported(trial)
    ]


def test_a_trial_learns_and_reports_every_epoch(bench: Workbench) -> None:
    params = {"lr": 0.5, "batch_size": 10}
    assert bench.run(Toy(), until=5, params=params) == ("ended", "complete")
    lines = bench.reported()
    assert [epoch for epoch, _ in lines] == [1, 2, 3, 4, 5]
    measured = {"seconds", "examples_per_second", "memory_mb"}
    seen = {"lr", "grad_norm", "weight_norm", "update_ratio"}
    began = {"initial_loss", "chance_loss"}
    both = {"val_acc", "val_loss", "train_acc", "train_loss"}
    assert set(lines[0][1]) == both | began | seen | measured
    assert set(lines[1][1]) <= both | seen | measured
    assert lines[-1][1]["train_loss"] < lines[0][1]["train_loss"]
    assert lines[-1][1]["val_acc"] > 0.9
    assert all(line["seconds"] > 0 for _, line in lines)


def test_the_training_is_plain_torch_done_by_hand(bench: Workbench) -> None:
    """The same numbers as a loop written out with the same seeds."""
    from torch.nn import functional

    from scattershot_common.seeds import derive

    bench.run(Toy(), until=3, seed=9, params={"lr": 0.1, "momentum": 0.9, "batch_size": 16})
    (x, y), (val_x, val_y) = points(60, 1), points(30, 2)
    torch.manual_seed(derive(9, "init"))
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    expected = []
    for epoch in (1, 2, 3):
        order = torch.Generator().manual_seed(derive(9, "order", epoch))
        total = 0.0
        for index in torch.randperm(60, generator=order).split(16):
            loss = functional.cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(index)
        with torch.no_grad():
            outputs = model(val_x)
        expected.append(
            {
                "val_loss": functional.cross_entropy(outputs, val_y).item(),
                "val_acc": (outputs.argmax(1) == val_y).float().mean().item(),
                "train_loss": total / 60,
                "lr": 0.1,
            }
        )
    for got, line in zip(metrics(bench), expected, strict=True):
        assert {name: got[name] for name in line} == pytest.approx(line, rel=1e-6)


def test_dropout_works_in_training_and_rests_in_evaluation(bench: Workbench) -> None:
    modes: list[tuple[str, bool]] = []

    class Watched(Toy):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            class Spy(nn.Linear):
                def forward(self, input: Tensor) -> Tensor:
                    modes.append(("grad" if torch.is_grad_enabled() else "no grad", self.training))
                    return super().forward(input)

            return Spy(3, 2)

    bench.run(Watched(), until=2, params={"batch_size": 60})
    assert modes == [("grad", True), ("no grad", False)] * 2


def test_what_a_model_keeps_from_evaluation_can_be_trained_with(bench: Workbench) -> None:
    class Keeping(nn.Linear):
        kept: Tensor | None = None

        def forward(self, input: Tensor) -> Tensor:
            if self.kept is None or len(self.kept) < len(input):
                self.kept = torch.ones(len(input), 1)
            return super().forward(input) * self.kept[: len(input)]

    class Caching(Toy):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return Keeping(3, 2)

    # the validation part's batch is the larger one
    assert bench.run(Caching(), until=2, params={"batch_size": 10}) == ("ended", "complete")


def test_equal_trials_give_equal_numbers_and_other_seeds_others(bench: Workbench) -> None:
    for trial, seed in ((1, 5), (2, 5), (3, 6)):
        bench.run(Toy(), trial, seed=seed)
    assert metrics(bench, 1) == metrics(bench, 2)
    assert metrics(bench, 1) != metrics(bench, 3)


def test_a_trial_cut_off_in_an_epoch_gives_the_same_numbers(bench: Workbench) -> None:
    class Cut(Toy):
        left = 7  # of epochs of four batches

        def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
            self.left -= 1
            if self.left == 0:
                bench.signals.set(StopReason.DRAIN)
            return x

    params: dict[str, Value] = {"optimizer": "adam", "batch_size": 16}
    bench.run(Toy(), 1, params=params)
    assert bench.run(Cut(), 2, params=params) == ("drain", "")
    bench.states.requeue(2, 1, Outcome.DRAIN, max_failures=3)
    bench.run(Toy(), 2, attempt=2, params=params)
    assert metrics(bench, 2) == metrics(bench, 1)


@pytest.mark.parametrize("stop", ["kill", "drain", "hold"])
@pytest.mark.parametrize("training", [True, False])
def test_a_stop_is_heard_at_the_next_batch(bench: Workbench, stop: Any, training: bool) -> None:
    calls: list[int] = []

    class Long(Toy):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            class Stopped(nn.Linear):
                def forward(self, input: Tensor) -> Tensor:
                    if self.training is training:
                        calls.append(len(input))
                        bench.signals.set(StopReason(stop))
                    return super().forward(input)

            return Stopped(3, 2)

    task = with_data(lambda: Data(points(4000, 1), points(4000, 2)), Long)
    outcome = ("ended", "killed") if stop == "kill" else (stop, "")
    assert bench.run(task, until=1, params={"batch_size": 100}) == outcome
    assert len(calls) == 1
    assert bench.reported() == []


def test_data_loaders_are_taken_as_they_are(bench: Workbench) -> None:
    def loaders() -> Data:
        train = DataLoader(TensorDataset(*points(60, 1)), batch_size=16, shuffle=True)
        return Data(train, DataLoader(TensorDataset(*points(30, 2)), batch_size=7))

    task = with_data(loaders)
    params = {"lr": 0.5}
    assert bench.run(task, 1, until=5, params=params) == ("ended", "complete")
    assert metrics(bench, 1)[-1]["val_acc"] > 0.9
    bench.run(task, 2, until=2, epochs=5, params=params)
    bench.run(task, 2, attempt=2, until=5, params=params)
    assert metrics(bench, 2) == metrics(bench, 1), "their shuffling follows the trial's seed"


def test_loaders_and_tensors_of_the_same_data_are_evaluated_alike() -> None:
    hooks, model = Hooks(Toy(), {}), nn.Linear(3, 2)
    part = points(50, 2)
    loader = DataLoader(TensorDataset(*part), batch_size=8)
    first = evaluate(hooks, model, part, CPU)
    second = evaluate(hooks, model, loader, CPU)
    assert first.metrics == pytest.approx(second.metrics)
    assert torch.allclose(first.outputs, second.outputs)
    assert torch.equal(second.targets, part[1])


def test_regression_reports_its_errors_and_saves_plain_outputs(bench: Workbench) -> None:
    class Slope(Toy):
        kind = "regression"

        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Linear(3, 1)

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            result = Task.metrics(self, outputs, targets)
            return {**result, "acc": -result["rmse"]}

    def sums() -> Data:
        train, val = points(60, 1)[0], points(30, 2)[0]
        return Data((train, train.sum(1)), (val, val.sum(1)))

    params = {"lr": 0.1}
    assert bench.run(with_data(sums, Slope), until=20, params=params) == ("ended", "complete")
    last = metrics(bench)[-1]
    assert {"val_rmse", "val_mae", "val_acc", "val_loss", "train_loss"} <= set(last)
    assert "train_accuracy" not in last
    assert last["val_rmse"] < 0.1
    saved = checkpoints.tensors(bench.checkpoints()[-1], "")
    assert saved["predictions"].shape == (30, 1)
    assert saved["targets"] == pytest.approx(sums().val[1].numpy())  # type: ignore[index]


def test_classifiers_save_probabilities_of_the_validation_part(bench: Workbench) -> None:
    bench.run(Toy(), until=1)
    saved = checkpoints.tensors(bench.checkpoints()[-1], "")
    assert saved["predictions"].shape == (30, 2)
    assert saved["predictions"].sum(1) == pytest.approx(np.ones(30))
    assert saved["targets"].tolist() == points(30, 2)[1].tolist()


def test_a_task_brings_its_own_loss_metrics_predictions_and_optimizer(bench: Workbench) -> None:
    class Own(Toy):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.square().mean() + 3

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            return {"acc": 0.25, "rows": float(len(outputs))}

        def predictions(self, outputs: Tensor) -> Tensor:
            return torch.full((len(outputs), 2), 7.0)

        def optimizer(self, model: nn.Module, params: Mapping[str, Any]) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=0.0)

    bench.run(Own(), until=2, params={"optimizer": "adam", "lr": 10.0})
    first, last = metrics(bench)
    assert (last["val_acc"], last["val_rows"]) == (0.25, 30.0)
    assert first["val_loss"] == last["val_loss"] > 3, "a learning rate of 0 changes nothing"
    assert checkpoints.tensors(bench.checkpoints()[-1], "predictions")["predictions"][0, 0] == 7.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_train_in_the_precision_they_were_made_in(
    bench: Workbench, dtype: torch.dtype
) -> None:
    class Precise(Toy):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Linear(3, 2, dtype=dtype)

    def data() -> Data:
        (x, y), (val_x, val_y) = points(60, 1), points(30, 2)
        return Data((x.to(dtype), y), (val_x.to(dtype), val_y))

    for optimizer in ("sgd", "adamw"):
        trial = {"sgd": 1, "adamw": 2}[optimizer]
        task, params = with_data(data, Precise), {"optimizer": optimizer, "lr": 0.1}
        assert bench.run(task, trial, until=2, epochs=4, params=params) == ("ended", "paused")
        assert bench.run(task, trial, attempt=2, params=params) == ("ended", "complete")
        tensors = bench.last_tensors(trial)
        assert tensors["model/weight"].dtype == dtype
        assert tensors["predictions"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int16, torch.bool])
@pytest.mark.parametrize("loader", [False, True])
def test_labels_of_any_integer_type_train_as_int64(
    bench: Workbench, dtype: torch.dtype, loader: bool
) -> None:
    def made(dtype: torch.dtype) -> Data:
        parts = [(x, y.to(dtype)) for x, y in (points(60, 1), points(30, 2))]
        return Data(*(DataLoader(TensorDataset(*p), 10) if loader else p for p in parts))

    for trial, part in enumerate((torch.int64, dtype)):
        task = with_data(lambda part=part: made(part))  # type: ignore[misc]
        assert bench.run(task, trial, params={"batch_size": 10}) == ("ended", "complete")
    assert metrics(bench, 0) == metrics(bench, 1)


class Lazy(Toy):
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))


@pytest.mark.parametrize("loader", [False, True])
def test_lazy_layers_take_their_shapes_from_the_data(bench: Workbench, loader: bool) -> None:
    def made() -> Data:
        train = points(60, 1)
        return Data(DataLoader(TensorDataset(*train), 10) if loader else train, points(30, 2))

    task = with_data(made, Lazy)
    params: dict[str, Value] = {"batch_size": 10, "ema": 0.9, "init": "he"}
    assert bench.run(task, 1, params=params) == ("ended", "complete")
    bench.run(task, 2, until=2, epochs=4, params=params)
    assert bench.run(task, 2, attempt=2, params=params) == ("ended", "complete")
    assert metrics(bench, 2) == metrics(bench, 1)
    assert bench.last_tensors(1)["model/0.weight"].shape == (5, 3)


def test_a_loader_that_shuffles_the_validation_part_does_so_alike_in_all_trials(
    bench: Workbench,
) -> None:
    loaded = DataLoader(TensorDataset(*points(30, 2)), 7, shuffle=True)
    task = with_data(lambda: Data(points(60, 1), loaded))
    targets = []
    for trial in (1, 2):
        bench.run(task, trial, until=1, seed=trial)
        targets.append(checkpoints.tensors(bench.checkpoints(trial)[-1], "")["targets"].tolist())
    assert targets[0] == targets[1]


class NoDict(Toy):
    def metrics(self, outputs: Tensor, targets: Tensor) -> Any:
        return 0.5


class NoModule(Toy):
    def model(self, params: Mapping[str, Any]) -> Any:
        return len


class Nothing(Toy):
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Identity()


class Several(Toy):
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        model = nn.Linear(3, 2)
        model.register_forward_hook(lambda module, x, out: {"logits": out})
        return model

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        return super().loss(outputs["logits"], targets)


class Probable(Toy):
    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 1), nn.Sigmoid(), nn.Flatten(0))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.binary_cross_entropy(outputs, targets.float())

    metrics = Task.metrics


def few(*tensors: Tensor) -> Any:
    return DataLoader(TensorDataset(*tensors), 8, drop_last=True)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (NoDict(), "NoDict.metrics() must return a dict of name and number, not a float"),
        (NoModule(), "NoModule.model() must return a torch.nn.Module, not a builtin_function_or"),
        (Nothing(), "the model has no parameters to train"),
        (Several(), "the model must give one tensor for a batch, not a dict"),
        (Probable(), "the model ends in a sigmoid, but metrics() takes one output for each target"),
        (with_data(lambda: Data(few(*points(4)), points(4))), "the training part has no batches"),
        (with_data(lambda: Data(points(4), few(*points(4)))), "the validation part has no batches"),
        (
            with_data(lambda: Data(few(*points(8), torch.ones(8)), points(4))),
            "a loader must give pairs (x, y) of tensors, not (Tensor, Tensor, Tensor)",
        ),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line_that_says_why(
    bench: Workbench, task: Task, reason: str
) -> None:
    assert bench.run(task) == ("ended", "failed")
    assert bench.reason().startswith(reason)


def test_one_output_for_each_target_is_saved_as_a_probability(bench: Workbench) -> None:
    class Logit(Probable):
        def model(self, params: Mapping[str, Any]) -> nn.Module:
            return nn.Linear(3, 1)

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            target = targets.view_as(outputs).float()
            return nn.functional.binary_cross_entropy_with_logits(outputs, target)

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            return {"acc": super().metrics(outputs, targets)["accuracy"]}

    class Own(Probable):
        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            return {"acc": ((outputs > 0.5) == targets).double().mean().item()}

    for trial, task in enumerate((Logit(), Own())):
        bench.run(task, trial, params={"lr": 0.5, "batch_size": 10})
        assert metrics(bench, trial)[-1]["val_acc"] > 0.9
        saved = checkpoints.tensors(bench.checkpoints(trial)[-1], "")
        right = (saved["predictions"].reshape(-1) > 0.5) == saved["targets"]
        assert right.mean() == pytest.approx(metrics(bench, trial)[-1]["val_acc"])


def test_wrong_data_fails_the_trial_with_the_same_words(bench: Workbench) -> None:
    assert bench.run(with_data(lambda: None)) == ("ended", "failed")
    assert bench.reason().startswith("Toy.data() must return scattershot.Data(")
