"""The trainer's options, each against torch's own implementation and resumed bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import swa_utils

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data, Task
from scattershot_worker.training.hyperparameters import Hyperparameters
from scattershot_worker.training.initialization import initialize
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training, train_epoch
from support.workbench import Workbench

CPU = torch.device("cpu")
DATA = torch.Generator().manual_seed(0)
X, Y = torch.randn(60, 5, generator=DATA), torch.randint(0, 3, (60,), generator=DATA)


class Three(Task):
    def data(self) -> Data:
        return Data((X[:48], Y[:48]), (X[48:], Y[48:]))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        layers = [nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2)]
        return nn.Sequential(*layers, nn.Linear(8, 3))

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"acc": super().metrics(outputs, targets)["accuracy"]}


class Shaken(Three):
    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x + 0.1 * torch.randn(x.shape, generator=generator)


def training(task: Task | None = None, **params: Any) -> Training:
    seed_everything(3)
    all_params = {"lr": 0.05, "batch_size": 12, **params}
    trial = Training(task or Three(), all_params, seed=5, budget=4, device=CPU)
    trial.begin_epoch(1, [])
    return trial


def plain() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return the model that `training` makes, and an optimizer for it, without dropout."""
    trial = training()
    model = copy.deepcopy(trial.model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model, torch.optim.SGD(model.parameters(), lr=0.05)


def without_dropout(**params: Any) -> Training:
    trial = training(**params)
    for module in trial.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trial


def assert_same(trial: nn.Module, other: nn.Module, within: float = 1e-6) -> None:
    for a, b in zip(trial.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=within)


# ---- a step


@pytest.mark.parametrize(
    ("params", "clip"),
    [
        ({"clip_norm": 0.1}, lambda ps: nn.utils.clip_grad_norm_(ps, 0.1)),
        ({"clip_value": 0.01}, lambda ps: nn.utils.clip_grad_value_(ps, 0.01)),
    ],
)
def test_gradients_are_clipped_as_torch_does(params: dict[str, Any], clip: Any) -> None:
    model, optimizer = plain()
    trial = without_dropout(**params)
    for _ in range(3):
        trial.step(X[:12], Y[:12])
        optimizer.zero_grad()
        F.cross_entropy(model(X[:12]), Y[:12]).backward()
        clip(model.parameters())
        optimizer.step()
    assert_same(trial.model, model)


def test_labels_are_smoothed_in_training_alone() -> None:
    trial = without_dropout(label_smoothing=0.2)
    outputs = trial.model(X[:12])
    expected = F.cross_entropy(outputs, Y[:12], label_smoothing=0.2)
    assert float(trial.loss(outputs, Y[:12]).detach()) == pytest.approx(float(expected))
    assert float(trial.task.loss(outputs, Y[:12]).detach()) != pytest.approx(float(expected))


class Hinged(Three):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.multi_margin_loss(outputs, targets)


def test_labels_of_another_loss_cannot_be_smoothed() -> None:
    with pytest.raises(TaskError, match="label_smoothing needs the default loss"):
        training(Hinged(), label_smoothing=0.1)


def test_gradients_of_several_batches_come_to_one_update_and_the_last_are_not_lost() -> None:
    model, optimizer = plain()
    trial = without_dropout(accumulate=2)
    for step, index in enumerate((slice(0, 12), slice(12, 24), slice(24, 36))):
        trial.begin_step(step, 3)
        trial.step(X[index], Y[index])
    for pair in ((slice(0, 12), slice(12, 24)), (slice(24, 36),)):
        optimizer.zero_grad()
        for index in pair:
            (F.cross_entropy(model(X[index]), Y[index]) / 2).backward()
        optimizer.step()
    assert_same(trial.model, model)


def test_weights_are_averaged_as_torch_does() -> None:
    trial = without_dropout(ema=0.9)
    average = swa_utils.AveragedModel(
        copy.deepcopy(trial.model), multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)
    )
    average.update_parameters(trial.model)  # its first call copies, as ours begins with a copy
    for _ in range(4):
        trial.step(X[:12], Y[:12])
        average.update_parameters(trial.model)
    assert trial.average is not None
    with trial.average.in_place():
        assert_same(trial.model, average.module)
    before = [parameter.clone() for parameter in trial.model.parameters()]
    with trial.average.in_place():
        pass
    assert all(torch.equal(a, b) for a, b in zip(before, trial.model.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_trial_learns_in_mixed_precision_and_keeps_full_weights(precision: str) -> None:
    trial = training(precision=precision, lr=0.2)
    first, _ = train_epoch(trial, trial.task.data().train, lambda: None)
    for epoch in range(2, 8):
        trial.begin_epoch(epoch, [])
        last, _ = train_epoch(trial, trial.task.data().train, lambda: None)
    assert last < first
    assert all(p.dtype == torch.float32 for p in trial.model.parameters())
    assert ("scaler" in trial.parts) == (precision == "fp16")


def test_a_step_that_the_scaler_skips_is_not_averaged_and_not_seen() -> None:
    class Overflows(Three):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return super().loss(outputs, targets) * (float("inf") if self.broken else 1.0)

        broken = False

    class Seen:
        updates = 0

        def gradients(self) -> None: ...

        def updated(self) -> None:
            self.updates += 1

    task, seen = Overflows(), Seen()
    trial = training(task, precision="fp16", ema=0.5)
    assert trial.average is not None and trial.scaler is not None
    trial.step(X[:12], Y[:12], seen)
    weights = {name: average.clone() for name, average in trial.average.weights.items()}
    scale = trial.scaler.get_scale()
    task.broken = True
    trial.step(X[:12], Y[:12], seen)
    assert trial.scaler.get_scale() == scale / 2 and seen.updates == 1
    assert all(torch.equal(trial.average.weights[name], weights[name]) for name in weights)
    task.broken = False
    trial.step(X[:12], Y[:12], seen)
    assert seen.updates == 2
    assert not torch.equal(trial.average.weights["4.weight"], weights["4.weight"])


def test_a_compiled_model_is_what_runs_and_its_state_keeps_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[nn.Module] = []
    ran: list[int] = []

    def compiling(model: nn.Module) -> Any:
        seen.append(model)

        def run(x: Tensor) -> Tensor:
            ran.append(len(x))
            out: Tensor = model(x)
            return out

        return run

    monkeypatch.setattr(torch, "compile", compiling)
    trial = training(compile=True)
    train_epoch(trial, trial.task.data().train, lambda: None)
    assert seen == [trial.model] and ran == [12] * 4
    assert [*trial.parts["model"].state_dict()] == [*training().model.state_dict()]


def test_a_compiler_that_does_not_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def broken(x: Tensor) -> Tensor:
        raise TorchDynamoException("no C++\ncompiler")

    monkeypatch.setattr(torch, "compile", lambda model: broken)
    with pytest.raises(TaskError, match="compile = true does not work here: no C"):
        training(compile=True).step(X[:12], Y[:12])


def test_batches_are_changed_in_training_alone_and_the_same_way_each_time() -> None:
    first, again = training(Shaken()), training(Shaken())
    quiet = training()
    for trial in (first, again, quiet):
        train_epoch(trial, trial.task.data().train, lambda: None)
    assert_same(first.model, again.model, 0.0)
    with pytest.raises(AssertionError):
        assert_same(first.model, quiet.model)


# ---- initialization


@pytest.mark.parametrize(
    ("name", "deviation"),
    [("he", (2 / 400) ** 0.5), ("xavier", (2 / 700) ** 0.5), ("normal", 0.01)],
)
def test_weights_are_drawn_by_name_and_biases_are_zero(name: str, deviation: float) -> None:
    seed_everything(1)
    model = nn.Sequential(nn.Linear(400, 300), nn.LayerNorm(300))
    initialize(model, name)
    layer, norm = model
    assert isinstance(layer, nn.Linear) and isinstance(norm, nn.LayerNorm)
    assert float(layer.weight.std()) == pytest.approx(deviation, rel=0.02)
    assert not layer.bias.any()
    assert bool((norm.weight == 1).all())


def test_a_trial_is_initialized_by_name() -> None:
    assert float(training(init="normal").model[0].weight.std()) < 0.02  # type: ignore[index]
    assert float(training().model[0].weight.std()) > 0.1  # type: ignore[index]


# ---- what is asked for


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1 (found 0)"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"schedule": "cosin"}, "schedule must be one of constant, step"),
        ({"warmup": 1.0}, "warmup must be a number from 0 up to, not with, 1"),
        ({"clip_norm": -1}, "clip_norm must be a number above 0 (found -1)"),
        ({"ema": True}, "ema must be a number between 0 and 1 (found True)"),
        ({"precision": "int8"}, "precision must be one of float32, bf16, fp16"),
        ({"init": "kaiming"}, "init must be one of default, he, xavier, normal"),
        ({"early_stopping": 0}, "early_stopping must be a whole number"),
        ({"compile": 1}, "compile must be true or false"),
    ],
)
def test_a_hyperparameter_out_of_bounds_is_told(params: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError) as caught:
        Hyperparameters.of(params)
    assert says in str(caught.value)


def test_hyperparameters_of_the_users_own_are_none_of_ours() -> None:
    assert Hyperparameters.of({"hidden": 3, "lr": 1.0}) == Hyperparameters()


# ---- resumed


PRACTICE: list[dict[str, Any]] = [
    {"schedule": "cosine", "warmup": 0.2},
    {"schedule": "plateau", "patience": 1},
    {"schedule": "one_cycle", "optimizer": "sgd", "momentum": 0.5, "final_momentum": 0.9},
    {"ema": 0.9, "clip_norm": 1.0, "label_smoothing": 0.1},
    {"accumulate": 3},
    {"precision": "bf16"},
    {"precision": "fp16"},
    {"init": "he"},
    {"augmented": True},
    {"compile": True},
]


@pytest.mark.parametrize("params", PRACTICE, ids=lambda params: " ".join(params))
def test_a_trial_that_is_resumed_at_any_epoch_is_the_same_bit_for_bit(
    workbench: Workbench, params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    def history(trial: int) -> list[dict[str, float]]:
        clocks = ("seconds", "examples_per_second", "memory_mb")
        lines = workbench.reported(trial)
        return [{k: v for k, v in line.items() if k not in clocks} for _, line in lines]

    def task() -> Task:
        return Shaken() if params.get("augmented") else Three()

    workbench.context.studies["study"] = workbench.info.__class__(
        **{name: getattr(workbench.info, name) for name in workbench.info.__slots__}
        | {"metric": "val_acc"}
    )
    all_params = {"lr": 0.1, "batch_size": 12, **params}
    workbench.run(task(), 1, until=4, params=all_params)
    through = workbench.last_tensors(1)
    for at in (1, 2, 3):
        trial = 10 + at
        workbench.run(task(), trial, until=at, epochs=4, params=all_params)
        workbench.run(task(), trial, attempt=2, until=4, params=all_params)
        assert history(trial) == history(1)
        resumed = workbench.last_tensors(trial)
        assert resumed.keys() == through.keys()
        assert all(torch.equal(resumed[name], through[name]) for name in through)


# ---- early stopping


class Flat(Three):
    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {"acc": 0.5}


@pytest.mark.parametrize("until", [2, 10])
def test_a_trial_that_gets_no_better_is_complete_before_its_budget_is_used_up(
    workbench: Workbench, until: int
) -> None:
    workbench.context.studies["study"] = workbench.info.__class__(
        **{name: getattr(workbench.info, name) for name in workbench.info.__slots__}
        | {"metric": "val_acc"}
    )
    params = {"early_stopping": 3}
    outcome = workbench.run(Flat(), until=until, epochs=10, params=params)
    if until == 2:  # a rung comes first
        assert outcome == ("ended", "paused")
        outcome = workbench.run(Flat(), attempt=2, until=10, params=params)
    assert outcome == ("ended", "complete")
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2, 3, 4]
    assert workbench.reason() == "stopped early: no better val_acc for 3 epochs"
    assert workbench.state() == "complete"


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_trial_that_is_stopped_anywhere_is_complete_at_the_same_epoch(
    workbench: Workbench, at: int
) -> None:
    workbench.context.studies["study"] = workbench.info.__class__(
        **{name: getattr(workbench.info, name) for name in workbench.info.__slots__}
        | {"metric": "val_acc"}
    )

    class Drained(Flat):
        calls = 0

        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            self.calls += 1
            if self.calls == at:
                workbench.signals.set(StopReason.DRAIN)  # heard with the epoch's report
            return super().metrics(outputs, targets)

    params = {"early_stopping": 3}
    assert workbench.run(Drained(), until=10, params=params)[0] == "drain"
    workbench.states.requeue(7, 1, Outcome.DRAIN, max_failures=3)
    assert workbench.run(Flat(), attempt=2, until=10, params=params) == ("ended", "complete")
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2, 3, 4]


def test_a_trial_that_stopped_early_gets_on_when_a_later_stage_continues_it(
    workbench: Workbench,
) -> None:
    workbench.context.studies["study"] = workbench.info.__class__(
        **{name: getattr(workbench.info, name) for name in workbench.info.__slots__}
        | {"metric": "val_acc"}
    )
    params = {"early_stopping": 3}
    workbench.run(Flat(), until=10, params=params)
    workbench.states.submit(7, 20)
    spec = TrialSpec("study", "u1", 7, "final", params, 5, 20)
    assert workbench.serve(Flat(), spec, 2) == ("ended", "complete")
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop"])
def test_momentum_may_begin_at_0(optimizer: str) -> None:
    def lost(**params: Any) -> float:
        trial = training(optimizer=optimizer, lr=1e-3, **params)
        for step in range(4):
            trial.begin_step(step, 4)
            loss = trial.step(X[:12], Y[:12])
        return loss.item()

    assert lost(final_momentum=0.9, momentum=0.0) == lost(final_momentum=0.9)
    assert lost(final_momentum=0.0) == pytest.approx(lost(), abs=1e-6)
    assert lost(final_momentum=0.9) != pytest.approx(lost(), abs=1e-5)
