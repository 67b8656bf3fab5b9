import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

from scattershot_common.errors import TaskError
from scattershot_worker.training.optimizers import OPTIMIZERS, make_optimizer

Make = Callable[[Any], optim.Optimizer]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def train(net: nn.Module, optimizer: optim.Optimizer, steps: int = 20) -> torch.Tensor:
    """Return all weights after some steps."""
    points = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(16, 4, generator=points)).square().mean().backward()
        optimizer.step()
    return torch.cat([weight.detach().flatten() for weight in net.parameters()])


BY_HAND: list[tuple[dict[str, Any], Make]] = [
    ({}, lambda p: optim.SGD(p, lr=0.01)),
    ({"lr": 0.1}, lambda p: optim.SGD(p, lr=0.1)),
    ({"lr": 0.1, "weight_decay": 0.1}, lambda p: optim.SGD(p, lr=0.1, weight_decay=0.1)),
    ({"lr": 0.1, "momentum": 0.9}, lambda p: optim.SGD(p, lr=0.1, momentum=0.9)),
    (
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    (
        {"lr": 0.1, "momentum": 0.9, "nesterov": False},
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    ),
    ({"lr": 0.1, "nesterov": True}, lambda p: optim.SGD(p, lr=0.1)),
    ({"lr": 0.1, "nesterov": True, "momentum": 0.0}, lambda p: optim.SGD(p, lr=0.1)),
    (
        {"optimizer": "adagrad", "lr": 0.1, "eps": 1e-3},
        lambda p: optim.Adagrad(p, lr=0.1, eps=1e-3),
    ),
    (
        {"optimizer": "rmsprop", "lr": 0.01, "alpha": 0.9, "momentum": 0.5, "eps": 1e-3},
        lambda p: optim.RMSprop(p, lr=0.01, alpha=0.9, momentum=0.5, eps=1e-3),
    ),
    ({"optimizer": "adam", "lr": 0.01}, lambda p: optim.Adam(p, lr=0.01)),
    (
        {"optimizer": "adam", "lr": 0.01, "beta1": 0.5},
        lambda p: optim.Adam(p, lr=0.01, betas=(0.5, 0.999)),
    ),
    (
        {"optimizer": "adam", "lr": 0.01, "beta2": 0.9, "weight_decay": 0.1},
        lambda p: optim.Adam(p, lr=0.01, betas=(0.9, 0.9), weight_decay=0.1),
    ),
    (
        {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.0, "eps": 1e-3},
        lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.0, eps=1e-3),
    ),
    ({"optimizer": "AdamW", "lr": 0.01}, lambda p: optim.AdamW(p, lr=0.01)),
    # what an optimizer does not have is left to others: it may be searched for them
    ({"optimizer": "adam", "lr": 0.01, "momentum": 0.9}, lambda p: optim.Adam(p, lr=0.01)),
    ({"lr": 0.1, "beta1": 0.5, "eps": 0.1, "alpha": 0.1}, lambda p: optim.SGD(p, lr=0.1)),
    ({"lr": 0.1, "hidden": 64, "batch_size": 8}, lambda p: optim.SGD(p, lr=0.1)),
]


@pytest.mark.parametrize(("params", "by_hand"), BY_HAND)
def test_hyperparameters_make_the_optimizer_one_would_write_by_hand(
    params: dict[str, Any], by_hand: Make
) -> None:
    first, second = model(), model()
    params = {"decay_all": True, **params}
    made, expected = make_optimizer(first, params), by_hand(second.parameters())
    assert type(made) is type(expected)
    settings = dict(made.defaults), dict(expected.defaults)
    for optimizer in settings:
        optimizer.pop("fused", None)
    assert settings[0] == settings[1]
    assert torch.allclose(train(first, made), train(second, expected), rtol=1e-4, atol=1e-6)


def test_nesterov_momentum_differs_from_plain_momentum() -> None:
    weights = []
    for nesterov in (True, False):
        net = model()
        params = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov}
        weights.append(train(net, make_optimizer(net, params)))
    assert not torch.allclose(weights[0], weights[1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_seed_gives_the_same_weights_to_the_last_bit(name: str) -> None:
    weights = []
    for _ in range(2):
        net = model()
        weights.append(train(net, make_optimizer(net, {"optimizer": name, "lr": 0.01})))
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_every_precision_can_be_trained(name: str, dtype: torch.dtype) -> None:
    net = nn.Linear(4, 1).to(dtype)
    optimizer = make_optimizer(net, {"optimizer": name, "lr": 0.01})
    before = net.weight.detach().clone()
    net(torch.ones(2, 4, dtype=dtype)).sum().backward()
    optimizer.step()
    assert net.weight.dtype == dtype
    assert not torch.equal(net.weight, before)


def test_frozen_parameters_stay_as_they_are() -> None:
    net = model()
    frozen = next(net.parameters()).requires_grad_(False)
    before = frozen.clone()
    train(net, make_optimizer(net, {"lr": 0.1, "weight_decay": 0.5}))
    assert torch.equal(frozen, before)


def test_an_unknown_optimizer_is_refused_with_those_there_are() -> None:
    with pytest.raises(TaskError) as caught:
        make_optimizer(model(), {"optimizer": "lion"})
    assert str(caught.value) == (
        "no optimizer is called 'lion'; there are sgd, adagrad, rmsprop, adam, adamw"
    )


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_biases_and_norms_do_not_decay_unless_all_do(optimizer: str) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    params = {"optimizer": optimizer, "weight_decay": 0.1}
    decaying, exempt = make_optimizer(network, params).param_groups
    assert [parameter.dim() for parameter in decaying["params"]] == [2, 2]
    assert [parameter.dim() for parameter in exempt["params"]] == [1, 1, 1, 1]
    assert (decaying["weight_decay"], exempt["weight_decay"]) == (0.1, 0.0)
    (everything,) = make_optimizer(network, {**params, "decay_all": True}).param_groups
    assert len(everything["params"]) == 6 and everything["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("optimizer", "name", "value"),
    [
        ("sgd", "lr", "abc"),
        ("sgd", "lr", True),
        ("sgd", "lr", -1.0),
        ("sgd", "lr", math.nan),
        ("sgd", "weight_decay", "a"),
        ("sgd", "momentum", 1.5),
        ("sgd", "momentum", "x"),
        ("sgd", "nesterov", "no"),
        ("rmsprop", "alpha", 2),
        ("adam", "beta2", 1.0),
        ("adamw", "eps", -1e-8),
    ],
)
def test_a_value_out_of_bounds_is_told_with_its_name_and_what_is_allowed(
    optimizer: str, name: str, value: Any
) -> None:
    with pytest.raises(TaskError, match=f"the hyperparameter {name} must be .*found"):
        make_optimizer(nn.Linear(2, 2), {"optimizer": optimizer, name: value})


def test_what_an_optimizer_does_not_read_may_be_anything() -> None:
    make_optimizer(nn.Linear(2, 2), {"optimizer": "adam", "momentum": "none"})
