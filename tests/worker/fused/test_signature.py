"""Signatures: trials that may share a program, and those that must be trained alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from scattershot_common.task.task import Data, Task
from scattershot_worker.fused import NotFusable, probe
from scattershot_worker.fused.verify import verify
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training

CPU = torch.device("cpu")
Forward = Callable[[Any, Tensor], Tensor]


class Model(nn.Module):
    """A model of some modules and a forward pass over them."""

    def __init__(self, forward: Forward, **modules: nn.Module) -> None:
        super().__init__()
        self._forward = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


class Any8x8(Task):
    """A task whose model a test brings."""

    def __init__(self, make: Callable[[Mapping[str, Any]], nn.Module]) -> None:
        super().__init__()
        self._make = make

    def data(self) -> Data:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(48, 1, 8, 8, generator=generator)
        y = torch.randint(0, 10, (48,), generator=generator)
        return Data((x[:40], y[:40]), (x[40:], y[40:]))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return self._make(params)


def training(task: Task, seed: int = 0, **params: Any) -> Training:
    seed_everything(seed)
    settings = {"batch_size": 16, "optimizer": "sgd", "lr": 0.05, **params}
    return Training(task, settings, seed=seed, budget=3, device=CPU)


def flat(x: Tensor) -> Tensor:
    return x.flatten(1)


def rows(x: Tensor) -> Tensor:
    return x.view(len(x), 8, 8)


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(64, 10), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(flat(x)) * (1 + self.calls)  # type: ignore[no-any-return]


class KeepsATensor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(64, 10), torch.rand(())

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(flat(x)) * self.scale  # type: ignore[no-any-return]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(F.relu(self.a(flat(x)))))  # type: ignore[no-any-return]


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(64, 16), nn.Linear(16, 10)
        self.a.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.a(flat(x))))  # type: ignore[no-any-return]


def _lin(inputs: int = 64, outputs: int = 10) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def _conv() -> nn.Conv2d:
    return nn.Conv2d(1, 4, 3)


def _autocast(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return m.l(F.relu(m.a(flat(x)))).float()  # type: ignore[no-any-return]


def _branch(m: Any, x: Tensor) -> Tensor:
    z: Tensor = m.l(flat(x))
    return z * 2 if z.sum() > 0 else z


def _into_zeros(m: Any, x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), 10)
    out[:, :5] = m.l(flat(x))
    return out


def _attended(m: Any, x: Tensor) -> Tensor:
    return m.l(m.a(rows(x), rows(x), rows(x), need_weights=False)[0].flatten(1))  # type: ignore


FUSED: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: Model(lambda m, x: m.l(flat(x)), l=_lin()),
    "where": lambda: Model(
        lambda m, x: torch.where(m.l(flat(x)) > 0, 1.0, 0.5) * m.l(flat(x)), l=_lin()
    ),
    "relu in place": lambda: Model(
        lambda m, x: m.l(F.relu_(m.a(flat(x)))), a=_lin(64, 20), l=_lin(20)
    ),
    "assigned slices": lambda: Model(_into_zeros, l=_lin(64, 5)),
    "dropout": lambda: Model(lambda m, x: m.l(m.d(flat(x))), d=nn.Dropout(0.3), l=_lin()),
    "a dropout used twice": lambda: Model(
        lambda m, x: m.l(m.d(F.relu(m.a(m.d(flat(x)))))),
        d=nn.Dropout(0.3),
        a=_lin(64, 20),
        l=_lin(20),
    ),
    "BatchNorm2d": lambda: Model(
        lambda m, x: m.l(m.b(m.c(x)).flatten(1)), c=_conv(), b=nn.BatchNorm2d(4), l=_lin(144)
    ),
    "GroupNorm": lambda: Model(
        lambda m, x: m.l(m.b(m.c(x)).flatten(1)), c=_conv(), b=nn.GroupNorm(2, 4), l=_lin(144)
    ),
    "LayerNorm": lambda: Model(lambda m, x: m.l(m.n(flat(x))), n=nn.LayerNorm(64), l=_lin()),
    "RMSNorm": lambda: Model(lambda m, x: m.l(m.n(flat(x))), n=nn.RMSNorm(64), l=_lin()),
    "Conv1d": lambda: Model(
        lambda m, x: m.l(m.c(rows(x)).flatten(1)), c=nn.Conv1d(8, 6, 3), l=_lin(36)
    ),
    "padding same": lambda: Model(
        lambda m, x: m.l(m.c(x).flatten(1)), c=nn.Conv2d(1, 4, 3, padding="same"), l=_lin(256)
    ),
    "depthwise": lambda: Model(
        lambda m, x: m.l(m.d(m.c(x)).flatten(1)),
        c=_conv(),
        d=nn.Conv2d(4, 4, 3, groups=4),
        l=_lin(64),
    ),
    "pooling": lambda: Model(
        lambda m, x: m.l(F.adaptive_avg_pool2d(F.avg_pool2d(m.c(x), 2), 1).flatten(1)),
        c=_conv(),
        l=_lin(4),
    ),
    "Embedding": lambda: Model(
        lambda m, x: m.l(m.e((flat(x) * 4).long().clamp(0, 19)).mean(1)),
        e=nn.Embedding(20, 6),
        l=_lin(6),
    ),
    "tied weights": Tied,
    "frozen weights": Frozen,
}
ALONE: dict[str, Callable[[], nn.Module]] = {
    "item()": lambda: Model(
        lambda m, x: m.l(flat(x)) * (2 if m.l(flat(x)).sum().item() > 0 else 1), l=_lin()
    ),
    "a branch on a tensor": lambda: Model(_branch, l=_lin()),
    "boolean mask": lambda: Model(lambda m, x: m.l(flat(x)[flat(x)[:, 0] > -9]), l=_lin()),
    "Dropout2d": lambda: Model(
        lambda m, x: m.l(m.d(m.c(x)).flatten(1)), c=_conv(), d=nn.Dropout2d(0.3), l=_lin(144)
    ),
    "functional dropout": lambda: Model(
        lambda m, x: m.l(F.dropout(flat(x), 0.3, m.training)), l=_lin()
    ),
    "randn": lambda: Model(lambda m, x: m.l(flat(x) + torch.randn(len(x), 64)), l=_lin()),
    "randn_like": lambda: Model(lambda m, x: m.l(flat(x) + torch.randn_like(flat(x))), l=_lin()),
    "momentum None": lambda: Model(
        lambda m, x: m.l(F.relu(m.b(m.a(flat(x))))),
        a=_lin(64, 20),
        b=nn.BatchNorm1d(20, momentum=None),
        l=_lin(20),
    ),
    "LSTM": lambda: Model(
        lambda m, x: m.l(m.r(rows(x))[0][:, -1]), r=nn.LSTM(8, 6, batch_first=True), l=_lin(6)
    ),
    "spectral_norm": lambda: Model(
        lambda m, x: m.l(F.relu(m.a(flat(x)))),
        a=nn.utils.parametrizations.spectral_norm(_lin(64, 20)),
        l=_lin(20),
    ),
    "numpy()": lambda: Model(
        lambda m, x: m.l(flat(x)) * float(m.l.weight.detach().numpy().mean() > -9), l=_lin()
    ),
    "a counter": Counts,
    "a tensor of its own": KeepsATensor,
    "an unused parameter": lambda: Model(lambda m, x: m.l(flat(x)), l=_lin(), z=_lin(3, 3)),
    "several outputs": lambda: Model(lambda m, x: (m.l(flat(x)), x), l=_lin()),  # type: ignore
    "one output for all": lambda: Model(lambda m, x: m.l(flat(x)).mean(0), l=_lin()),
}
#: Whether these can be traced depends on torch's version: they must not be wrong.
EITHER: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm1d": lambda: Model(
        lambda m, x: m.l(F.relu(m.b(m.a(flat(x))))),
        a=_lin(64, 20),
        b=nn.BatchNorm1d(20),
        l=_lin(20),
    ),
    "InstanceNorm": lambda: Model(
        lambda m, x: m.l(m.b(m.c(x)).flatten(1)),
        c=_conv(),
        b=nn.InstanceNorm2d(4, affine=True),
        l=_lin(144),
    ),
    "ConvTranspose2d": lambda: Model(
        lambda m, x: m.l(m.c(x).flatten(1)), c=nn.ConvTranspose2d(1, 2, 2, stride=2), l=_lin(512)
    ),
    "EmbeddingBag": lambda: Model(
        lambda m, x: m.l(m.e((flat(x) * 4).long().clamp(0, 19))),
        e=nn.EmbeddingBag(20, 6),
        l=_lin(6),
    ),
    "MultiheadAttention": lambda: Model(
        _attended, a=nn.MultiheadAttention(8, 2, batch_first=True), l=_lin()
    ),
    "GRU": lambda: Model(
        lambda m, x: m.l(m.r(rows(x))[0][:, -1]), r=nn.GRU(8, 6, batch_first=True), l=_lin(6)
    ),
    "weight_norm": lambda: Model(
        lambda m, x: m.l(F.relu(m.a(flat(x)))),
        a=nn.utils.parametrizations.weight_norm(_lin(64, 20)),
        l=_lin(20),
    ),
    "TransformerEncoderLayer": lambda: Model(
        lambda m, x: m.l(m.t(rows(x)).flatten(1)),
        t=nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True),
        l=_lin(),
    ),
    "autocast": lambda: Model(_autocast, a=_lin(64, 20), l=_lin(20)),
    "checkpoint": lambda: Model(
        lambda m, x: m.l(checkpoint(lambda z: F.relu(m.a(z)), flat(x), use_reentrant=False)),
        a=_lin(64, 20),
        l=_lin(20),
    ),
}


def fused(make: Callable[[], nn.Module]) -> None:
    """Probe a model and verify it as a lane; raises NotFusable."""
    task = Any8x8(lambda params: make())
    trial = training(task)
    verify(task, trial, task.data(), probe(task, trial, task.data()))


@pytest.mark.parametrize("name", FUSED)
def test_a_model_of_tensor_operations_can_be_a_lane(name: str) -> None:
    fused(FUSED[name])


@pytest.mark.parametrize("name", ALONE)
def test_a_model_that_cannot_be_a_lane_says_why(name: str) -> None:
    with pytest.raises(NotFusable) as caught:
        fused(ALONE[name])
    assert caught.value.reason and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EITHER)
def test_a_model_on_the_edge_is_proved_or_refused(name: str) -> None:
    try:
        fused(EITHER[name])
    except NotFusable as no:
        assert no.reason


class Own8x8(Any8x8):
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy(outputs, targets.view_as(outputs).to(outputs) / 9)


def probe_with_targets(task: Any8x8, y: Tensor, **params: Any) -> None:
    data = task.data()
    parts = [(x, y[: len(x)]) for x, _ in map(tensors_of, (data.train, data.val))]
    probe(task, training(task, **params), Data(*parts))


@pytest.mark.parametrize(
    ("task", "y", "params", "reason"),
    [
        (Any8x8(lambda _: FUSED["linear"]()), torch.full((40,), -100), {}, "to be left out"),
        (
            Any8x8(lambda _: Model(lambda m, x: m.l(flat(x)).view(-1, 5, 2), l=_lin())),
            torch.zeros(40, 2, dtype=torch.int64),
            {"label_smoothing": 0.1},
            "smooths labels",
        ),
        (
            Own8x8(lambda _: Model(lambda m, x: m.l(flat(x)).sigmoid().view(-1), l=_lin(64, 1))),
            torch.ones(40, dtype=torch.int64),
            {},
            "its outputs are probabilities",
        ),
    ],
)
def test_targets_that_lanes_would_take_otherwise_are_trained_alone(
    task: Any8x8, y: Tensor, params: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotFusable, match=reason):
        probe_with_targets(task, y, **params)


def test_a_lane_that_comes_out_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from scattershot_worker.fused import lane_functions

    right = lane_functions._LinearLanes.backward

    def wrong(ctx: Any, *grads: Any) -> Any:
        x, w, b = right(ctx, *grads)
        return x, w * 1.001, b

    monkeypatch.setattr(lane_functions._LinearLanes, "backward", staticmethod(wrong))
    with pytest.raises(NotFusable, match=r"trained as a lane its \S+ differs"):
        fused(FUSED["linear"])


# ---- which trials have the same signature


def key(make: Callable[[Mapping[str, Any]], nn.Module], seed: int = 0, **params: Any) -> str:
    task = Any8x8(make)
    return probe(task, training(task, seed, **params), task.data()).key


def mlp(params: Mapping[str, Any]) -> nn.Module:
    p, width = params.get("dropout", 0.1), params.get("hidden", 8)
    layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(p)]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@pytest.mark.parametrize(
    "params",
    [
        {"lr": 1e-5},
        {"weight_decay": 0.1},
        {"dropout": 0.5},
        {"optimizer": "adamw", "beta1": 0.8},
        {"optimizer": "rmsprop", "momentum": 0.5},
        {"schedule": "cosine", "warmup": 0.1},
        {"label_smoothing": 0.1, "clip_norm": 1.0, "ema": 0.99},
    ],
)
def test_trials_that_differ_in_numbers_of_their_own_fit_each_other(params: Any) -> None:
    assert key(mlp, 1, **params) == key(mlp)


def test_targets_of_another_type_do_not_fit() -> None:
    task = Any8x8(lambda _: FUSED["linear"]())
    (x, y), val = tensors_of(task.data().train), task.data().val
    keys = {probe(task, training(task), Data((x, targets), val)).key for targets in (y, y.int())}
    assert len(keys) == 2


@pytest.mark.parametrize("params", [{"hidden": 9}, {"batch_size": 8}, {"dropout": 0.0}])
def test_trials_that_do_other_arithmetic_do_not_fit(params: Any) -> None:
    assert key(mlp, **params) != key(mlp)


def test_a_number_in_the_forward_pass_counts() -> None:
    def scaled(params: Mapping[str, Any]) -> nn.Module:
        return Model(lambda m, x: m.l(flat(x)) * params["scale"], l=_lin())

    assert key(scaled, scale=1.5) == key(scaled, scale=1.5) != key(scaled, scale=1.6)


def test_a_look_leaves_the_trial_and_the_generators_as_they_were() -> None:
    task = Any8x8(lambda params: FUSED["BatchNorm2d"]())
    trial = training(task)
    before = {name: tensor.clone() for name, tensor in trial.model.state_dict().items()}
    generator = torch.random.get_rng_state()
    probe(task, trial, task.data())
    assert all(torch.equal(before[name], t) for name, t in trial.model.state_dict().items())
    assert torch.equal(generator, torch.random.get_rng_state())


# ---- what is not per lane


class Loads(Any8x8):
    def data(self) -> Data:
        data = super().data()
        return Data(DataLoader(TensorDataset(*tensors_of(data.train)), 8), data.val)


class MakesItsOptimizer(Any8x8):
    def optimizer(self, model: nn.Module, params: Mapping[str, Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("kind", "why"), [(Loads, "its data is a loader"), (MakesItsOptimizer, "makes the optimizer")]
)
def test_a_task_that_has_its_own_way_is_trained_alone(kind: type[Any8x8], why: str) -> None:
    task = kind(mlp)
    with pytest.raises(NotFusable, match=why):
        probe(task, training(task), task.data())
