"""Real trainings that each show one problem, and healthy ones to compare them with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import torch
from sklearn.datasets import load_digits, make_moons
from torch import Tensor, nn

from scattershot_common.objective import Objective
from scattershot_common.store.layer_stats import LayerStats
from scattershot_common.task.task import Data, Task
from scattershot_master.diagnosis.trial_case import TrialCase
from scattershot_worker.monitors.monitor import Monitor
from scattershot_worker.tasks.diabetes import Diabetes
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.evaluation import evaluate
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training, train_epoch

CPU = torch.device("cpu")


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return the digits, x [1797, 64] normalized and y [1797], in an order of their own."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    return (x - x.mean()) / x.std(), torch.tensor(digits.target)[order]


def parts(train: int = 800, val: int = 400) -> Data:
    """Return the first `train` digits to train on, and the last `val` to validate."""
    x, y = digits()
    return Data((x[:train], y[:train]), (x[-val:], y[-val:]))


def far() -> Data:
    """Return the patients with targets as they were measured: around 152, give or take 77."""
    data = patients()
    (x, y), (x_val, y_val) = (tensors_of(part) for part in (data.train, data.val))
    return Data((x, 77 * y + 152), (x_val, 77 * y_val + 152))


@cache
def moons() -> Data:
    """Return two half moons that overlap: no model tells them apart without mistakes."""
    x, y = make_moons(800, noise=0.4, random_state=0)
    points, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    return Data((points[:500], labels[:500]), (points[500:], labels[500:]))


def noise(train: int = 200, val: int = 200) -> Data:
    """Return labels of which a fifth is wrong at random: to be learned by heart only."""
    data = parts(train, val)
    x, y = tensors_of(data.train)
    wrong = torch.rand(len(y), generator=torch.Generator().manual_seed(1)) < 0.2
    labels = torch.randint(0, 10, y.shape, generator=torch.Generator().manual_seed(2))
    return Data((x, torch.where(wrong, labels, y)), data.val)


def patients() -> Data:
    """Return the built-in regression's parts: standardized, half of the variance is noise."""
    return Diabetes().data()


def net(
    *widths: int,
    activation: type[nn.Module] = nn.ReLU,
    gain: float = 2**0.5,
    last: float = 1.0,
    std: float | None = None,
    bias: float = 0.0,
    ends: tuple[int, int] = (64, 10),
) -> nn.Sequential:
    """Return a fully connected network; weights have the deviation gain / sqrt(inputs).

    `std` stands in for it in all layers, `last` is the last layer's own gain, and `ends` are the
    numbers of inputs and outputs: those of the digits.
    """
    sizes = [ends[0], *widths, ends[1]]
    modules: list[nn.Module] = []
    for index, (a, b) in enumerate(pairwise(sizes)):
        layer = nn.Linear(a, b)
        at_end = index == len(widths)
        deviation = std if std is not None else (last if at_end else gain) / a**0.5
        nn.init.normal_(layer.weight, std=deviation)
        nn.init.constant_(layer.bias, 0.0 if at_end else bias)
        modules += [layer] if at_end else [layer, activation()]
    return nn.Sequential(*modules)


def conv_net() -> nn.Sequential:
    """Return a small convolutional network on digits."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )


def line_net() -> nn.Sequential:
    """Return a network with convolutions over the digits' pixels, one after the other."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 64)),
        nn.Conv1d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv1d(8, 16, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 13, 10),
    )


def norm_net() -> nn.Sequential:
    """Return two hidden layers with batch normalization."""
    hidden = [
        layer
        for inputs in (64, 32)
        for layer in (nn.Linear(inputs, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(32, 10))


def dropout_net() -> nn.Sequential:
    """Return a hidden layer of which half is dropped in training."""
    first, activation, last = net(128)
    return nn.Sequential(first, activation, nn.Dropout(0.5), last)


Kind = Literal["classification", "regression", "likelihood"]


@dataclass(frozen=True)
class Run:
    """What is trained and how, and the rules that must and that may fire on it."""

    name: str
    model: Callable[[], nn.Module]
    params: Mapping[str, Any]
    epochs: int = 16
    data: Callable[[], Data] = parts
    must: frozenset[str] = frozenset()
    may: frozenset[str] = field(default=frozenset())
    kind: Kind = "classification"


class _Made(Task):
    def __init__(self, run: Run) -> None:
        self._one = run

    def data(self) -> Data:
        return self._one.data()

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return self._one.model()


class _Regression(_Made):
    kind = "regression"


class _Likelihood(_Regression):
    """Fits a mean and the logarithm of a variance: its loss falls below 0."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        mean, log_variance = outputs[:, :1] / 10, outputs[:, 1:] - 6
        off = (mean - targets.view_as(mean) / 100).square()
        return ((off / log_variance.exp() + log_variance) / 2).mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        mean = outputs[:, :1] / 10
        return {"rmse": (mean - targets.view_as(mean) / 100).square().mean().sqrt().item()}


_TASKS = {"classification": _Made, "regression": _Regression, "likelihood": _Likelihood}


def case(run: Run, seed: int = 3) -> TrialCase:
    """Train it as a worker does, and return it as the rules see it."""
    seed_everything(seed)
    task = _TASKS[run.kind](run)
    data = run.data()
    training = Training(task, run.params, seed=seed, budget=run.epochs, device=CPU)
    monitor, layers = Monitor(training), LayerStats()
    history: list[dict[str, float]] = []
    for epoch in range(1, run.epochs + 1):
        training.begin_epoch(epoch, history)
        loss, _ = train_epoch(training, data.train, lambda: None, monitor)
        with monitor.evaluation():
            evaluation = evaluate(training.hooks, training.model, data.val, CPU)
        monitored, record = monitor.end_epoch(evaluation.outputs, evaluation.targets)
        if record is not None:
            layers.add(record)
        validated = {f"val_{name}": value for name, value in evaluation.metrics.items()}
        history.append(
            {"epoch": epoch, **validated, "train_loss": loss.item(), "lr": training.lr, **monitored}
        )
    lines = json.loads(layers.data())["epochs"]
    if task.kind == "regression":
        return TrialCase(history, lines, dict(run.params), Objective("val_rmse", "minimize"))
    return TrialCase(history, lines, dict(run.params))


def _sick(
    name: str,
    must: str,
    model: Callable[[], nn.Module],
    params: Mapping[str, Any],
    epochs: int = 16,
    *,
    data: Callable[[], Data] = parts,
    may: str = "",
    kind: Kind = "classification",
) -> Run:
    rules = frozenset(must.split()), frozenset(may.split())
    return Run(name, model, params, epochs, data, *rules, kind)


ADAM = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.01}
SGD = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.9}

HEALTHY = [
    Run("adamw", lambda: net(64), ADAM),
    Run("sgd with momentum", lambda: net(64), SGD),
    Run("two layers, cosine", lambda: net(64, 64), {**ADAM, "schedule": "cosine"}),
    Run("tanh", lambda: net(64, activation=nn.Tanh, gain=1), ADAM),
    Run("conv", conv_net, {**ADAM, "lr": 4e-3}),
    Run("late step decay", lambda: net(64), {**SGD, "schedule": "step", "drop_every": 0.6}),
    Run("plain sgd", lambda: net(64), {"lr": 0.2}, 24),
    Run("dropout", dropout_net, ADAM, 24),
    Run("label smoothing", lambda: net(64), {**ADAM, "label_smoothing": 0.1}),
    Run("batch norm, one cycle", norm_net, {**ADAM, "lr": 1e-2, "schedule": "one_cycle"}),
    Run("five epochs", lambda: net(64), ADAM, 5),
    Run("warmup", lambda: net(64, 64), {**ADAM, "warmup": 0.3, "schedule": "cosine"}),
    Run("warmup, sgd", lambda: net(64), {**SGD, "warmup": 0.2}),
    Run("high dropout rate", dropout_net, {**ADAM, "lr": 5e-3}, 30),
    Run("batch norm, batches of 16", norm_net, {**ADAM, "lr": 5e-3, "batch_size": 16}, 30),
    Run("1d convolutions", line_net, {**ADAM, "lr": 4e-3}),
    *(
        Run(
            f"linear regression, sgd at {lr}",
            lambda: net(ends=(10, 1)),
            {"lr": lr},
            60,
            patients,
            kind="regression",
        )
        for lr in (0.005, 0.02, 0.05)
    ),
    Run(
        "regression",
        lambda: net(16, ends=(10, 1)),
        {**ADAM, "lr": 5e-3},
        40,
        patients,
        kind="regression",
    ),
    Run(
        "targets far from 0",
        lambda: net(16, ends=(10, 1)),
        {**ADAM, "lr": 0.1},
        60,
        far,
        kind="regression",
    ),
    Run(
        "likelihood",
        lambda: net(16, ends=(10, 2)),
        {**ADAM, "lr": 0.01},
        80,
        patients,
        kind="likelihood",
    ),
    *(
        Run(f"moons, adamw at {lr}", lambda: net(16, ends=(2, 2)), {**ADAM, "lr": lr}, 40, moons)
        for lr in (3e-3, 1e-2)
    ),
    Run("moons, sgd", lambda: net(32, ends=(2, 2)), SGD, 40, moons),
]
SICK = [
    _sick(
        "last layer 20 times too large",
        "initial_loss",
        lambda: net(64, last=20),
        ADAM,
        # what such weights have once fitted does not generalize, and takes long to
        may="overfitting still_improving",
    ),
    _sick(
        "weights of 0.02 in four layers",
        "flat_start",
        lambda: net(64, 64, 64, std=0.02),
        {"lr": 0.03, "momentum": 0.9},
        epochs=40,
        may="still_improving",
    ),
    _sick(
        "sgd at rate 10",
        "diverged dead_relus",
        lambda: net(64),
        {"lr": 10.0},
        epochs=6,
        may="vanishing_gradients",
    ),
    _sick(
        "adam at rate 1",
        "diverged",
        lambda: net(64),
        {**ADAM, "lr": 1.0},
        may="update_ratio dead_relus vanishing_gradients plateau",
    ),
    _sick("sgd at rate 1e-4", "slow", lambda: net(64), {"lr": 1e-4}, may="update_ratio"),
    _sick("sgd at rate 1e-6", "update_ratio", lambda: net(64), {"lr": 1e-6}, may="slow"),
    _sick(
        "adam at rate 0.15",
        "plateau",
        lambda: net(64, activation=nn.LeakyReLU),
        {**ADAM, "lr": 0.15},
        may="diverged update_ratio noisy overfitting still_improving",
    ),
    _sick(
        "adam at rate 0.1, relu",  # the units that die may calm it, or not
        "dead_relus",
        lambda: net(64),
        {**ADAM, "lr": 0.1},
        may="plateau update_ratio overfitting still_improving",
    ),
    _sick(
        "decay after two epochs",
        "early_decay",
        lambda: net(64),
        {"lr": 0.01, "schedule": "step", "drop_every": 0.1, "drop_factor": 0.01},
    ),
    _sick(
        "one unit",
        "underfitting",
        lambda: net(1, activation=nn.Tanh, gain=1),
        {**ADAM, "lr": 1e-2},
        epochs=60,
        may="still_improving",
    ),
    _sick(
        "200 examples, a fifth of them mislabelled",
        "overfitting",
        lambda: net(256),
        {**ADAM, "weight_decay": 0.0},
        epochs=40,
        data=noise,
    ),
    _sick(
        "biases of -8",
        "dead_relus vanishing_gradients",
        lambda: net(64, bias=-8.0),
        ADAM,
    ),
    _sick(
        "tanh with weights of 1",
        "saturated initial_loss",
        lambda: net(64, 64, activation=nn.Tanh, std=1.0),
        ADAM,
        may="overfitting still_improving",
    ),
    _sick(
        "eight sigmoid layers",
        "vanishing_gradients",
        lambda: net(*[32] * 8, activation=nn.Sigmoid, gain=1),
        {"lr": 0.05},
    ),
    _sick(
        "ten layers, weights too large",
        "exploding_gradients initial_loss",
        lambda: net(*[32] * 10, gain=3),
        {"lr": 1e-5},
        epochs=4,
        may="dead_relus",
    ),
    _sick(
        "batches of 2",
        "noisy",
        lambda: net(64, activation=nn.LeakyReLU),
        {**ADAM, "lr": 0.03, "batch_size": 2},
        epochs=4,
        may="update_ratio",
    ),
    _sick(
        "regression at rate 5",
        "diverged",
        lambda: net(32, ends=(10, 1)),
        {"lr": 5.0},
        epochs=4,
        data=patients,
        may="initial_loss",  # of one output, by chance
        kind="regression",
    ),
    _sick("stopped early", "still_improving", lambda: net(64), {"lr": 0.005}, epochs=8),
]
