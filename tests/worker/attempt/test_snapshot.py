import pickle
import tempfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scattershot_common.errors import CheckpointError
from scattershot_worker.attempt.snapshot import Snapshot, Stateful, read_tensors, restore
from support import checkpoints

HEADER: dict[str, object] = {"study": "digits", "trial": 3, "attempt": 1, "epoch": 1, "seed": 5}

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(0.1)),
}


class Own:
    """A user's own object with a state."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Mapping[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: Any) -> None:
        self.state = state["state"]


def write(path: Path, parts: Mapping[str, Stateful]) -> tuple[Mapping[str, Any], bytes]:
    """Write the parts to a file and return the skeleton and bytes that stand in it."""
    snapshot = Snapshot({name: part.state_dict() for name, part in parts.items()})
    checkpoints.write(path, snapshot.serialize(HEADER), sync=False)
    skeleton: Any = checkpoints.read_header(path)["state"]
    return skeleton, checkpoints.load(path)


def through_a_file(path: Path, state: Any) -> Any:
    """Return a state as it comes back from a checkpoint."""
    back = Own()
    restore({"own": back}, *write(path, {"own": Own(state)}))
    return back.state


def same(a: Any, b: Any) -> bool:
    """Return whether two states are equal in values, types and tensors' bits."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return (
            isinstance(b, Mapping)
            and [(type(k), k) for k in a] == [(type(k), k) for k in b]
            and all(same(a[key], b[key]) for key in a)
        )
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


# ---- round trips


KEYS = st.text(max_size=3) | st.sampled_from(["$tensor", "$pairs", "a/b", "a", "b"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.integers(0, 9).map(lambda n: torch.full((n % 3,), n)),
)
MIXED = st.one_of(KEYS, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(MIXED, inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(STATES)
def test_any_state_of_tensors_and_plain_data_comes_back_as_it_was(state: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert same(through_a_file(Path(folder, "file"), state), state)


def test_tensors_whose_paths_look_alike_are_kept_apart(tmp_path: Path) -> None:
    one, two, three, four = map(torch.tensor, range(4))
    state = {"a": {"b/c": one}, "a/b": {"c": two}, 1: three, "1": four}
    assert same(through_a_file(tmp_path / "file", state), state)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_exactly_where_it_was(tmp_path: Path, name: str) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    model = nn.Linear(4, 3)
    optimizer = OPTIMIZERS[name](model.parameters())
    for seed in range(3):
        step(model, optimizer, seed)
    skeleton, data = write(tmp_path / "file", {"model": model, "optimizer": optimizer})
    other = nn.Linear(4, 3)
    other_optimizer = OPTIMIZERS[name](other.parameters())
    restore({"model": other, "optimizer": other_optimizer}, skeleton, data)
    assert same(other_optimizer.state_dict(), optimizer.state_dict())
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(other, other_optimizer, seed)
    assert same(other.state_dict(), OrderedDict(model.state_dict()))


def test_several_parameter_groups_keep_their_own_settings(tmp_path: Path) -> None:
    def make() -> torch.optim.Optimizer:
        layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
        groups = [
            {"params": layers[0].parameters(), "lr": 0.5, "betas": (0.5, 0.6)},
            {"params": layers[1].parameters(), "weight_decay": 0.1, "name": "head"},
        ]
        return torch.optim.AdamW(groups, lr=1e-3)

    first, second = make(), make()
    first.param_groups[0]["lr"] = 0.25
    restore({"optimizer": second}, *write(tmp_path / "file", {"optimizer": first}))
    assert same(second.state_dict(), first.state_dict())


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 4, 4]),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=10),
        lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    ],
)
def test_a_schedule_goes_on_exactly_where_it_was(tmp_path: Path, make: Any) -> None:
    def made() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1, momentum=0.9)
        return optimizer, make(optimizer)

    def step(optimizer: torch.optim.Optimizer, scheduler: Any) -> float:
        optimizer.step()
        plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
        scheduler.step(*[1.0] * plateau)
        return float(optimizer.param_groups[0]["lr"])

    first, second = made(), made()
    for _ in range(3):
        step(*first)
    skeleton, data = write(tmp_path / "file", {"optimizer": first[0], "scheduler": first[1]})
    restore({"optimizer": second[0], "scheduler": second[1]}, skeleton, data)
    assert [step(*second) for _ in range(5)] == [step(*first) for _ in range(5)]


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool]
)
def test_every_dtype_keeps_its_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    state = torch.randn(5, 3).to(dtype)
    assert same(through_a_file(tmp_path / "file", state), state)


def test_tensors_of_every_shape_and_layout_come_back(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = [
        base.transpose(0, 2),
        base[:, ::2],
        torch.tensor(1.5),
        torch.zeros(0, 3),
        torch.ones(1).expand(4),
        nn.Parameter(torch.ones(2)),
    ]
    back = through_a_file(tmp_path / "file", state)
    assert all(map(torch.equal, back, state))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    def make() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    first, second = make(), make()
    restore({"model": second}, *write(tmp_path / "file", {"model": first}))
    assert same(second.state_dict(), OrderedDict(first.state_dict()))
    assert second[0].weight is second[1].weight


def test_a_snapshot_does_not_follow_the_training(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    snapshot = Snapshot({"model": model.state_dict()})
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(snapshot.tensors["model/weight"], before)


def test_batch_statistics_are_part_of_the_state(tmp_path: Path) -> None:
    first, second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    first(torch.randn(16, 4))
    restore({"model": second}, *write(tmp_path / "file", {"model": first}))
    assert same(second.state_dict(), OrderedDict(first.state_dict()))


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("pickled")

    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    for owner, names in (
        (pickle, ("dump", "dumps", "load", "loads", "Pickler", "Unpickler")),
        (torch, ("save", "load")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, refuse)
    parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer}
    restore(parts, *write(tmp_path / "file", parts))


# ---- refusals


class Odd:
    pass


@pytest.mark.parametrize(
    ("state", "what", "where"),
    [
        ({"a": [1, {"b": Odd()}]}, "Odd", "own/state/a/1/b"),
        (np.zeros(2), "ndarray", "own/state"),
        (np.float32(1.0), "float32", "own/state"),
        ((1, deque([1])), "deque", "own/state/1"),
        ({1, 2}, "set", "own/state"),
        (b"bytes", "bytes", "own/state"),
        (1j, "complex", "own/state"),
        (print, "builtin_function_or_method", "own/state"),
        ({(1, 2): 3}, "tuple", "own/state"),
        ({Odd: 3}, "type", "own/state"),
    ],
)
def test_what_is_not_plain_is_refused_by_name_and_place(state: Any, what: str, where: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        Snapshot({"own": Own(state).state_dict()})
    assert str(caught.value) == (
        f"a checkpoint cannot hold a {what} (at {where}): its state_dict() "
        "must consist of tensors, numbers, text and None"
    )


def test_a_part_that_the_checkpoint_does_not_hold_is_named(tmp_path: Path) -> None:
    skeleton, data = write(tmp_path / "file", {"model": nn.Linear(1, 1)})
    with pytest.raises(CheckpointError, match=r"holds no 'ema'; trial\.epochs\(\) must be given"):
        restore({"model": nn.Linear(1, 1), "ema": nn.Linear(1, 1)}, skeleton, data)


def test_a_model_of_another_shape_is_one_line_with_the_reason(tmp_path: Path) -> None:
    skeleton, data = write(tmp_path / "file", {"model": nn.Linear(2, 1)})
    with pytest.raises(CheckpointError, match="the checkpoint's 'model' does not fit") as caught:
        restore({"model": nn.Linear(3, 1)}, skeleton, data)
    assert "size mismatch for weight" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_optimizer_does_not_fit(tmp_path: Path) -> None:
    first = torch.optim.Adam(nn.Linear(2, 1).parameters())
    second = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    with pytest.raises(CheckpointError, match="the checkpoint's 'optimizer' does not fit"):
        restore({"optimizer": second}, *write(tmp_path / "file", {"optimizer": first}))


def test_an_altered_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    _, data = write(path, {"model": nn.Linear(4, 4)})
    assert len(read_tensors(data)) == 2
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(path)


# ---- types


class Phase(IntEnum):
    WARM, COLD = 1, 2


class Mode(StrEnum):
    FAST = "fast"


class Rate(float):
    pass


class Name(str):
    pass


class Point(NamedTuple):
    x: float
    y: Any


TYPED: dict[str, Any] = {
    "counter": Counter({2: 1, 4: 2}),
    "ordered": OrderedDict(b=1, a=2),
    "size": torch.Size([2, 3]),
    "defaultdict": defaultdict(list, a=[1]),
    "nested": [{"milestones": Counter([1, 1])}, (torch.Size([1]),)],
    "tensors": OrderedDict(a=torch.ones(2)),
}
HELD: dict[str, Any] = {
    "phase": Phase.COLD,
    "mode": Mode.FAST,
    "rate": Rate(0.5),
    "name": Name("a"),
    "point": Point(1.0, [torch.ones(1)]),
    "numpy": np.float64(0.5),
    "keys": {Phase.WARM: 1, Name("b"): 2},
}


@pytest.mark.parametrize("name", TYPED)
def test_types_of_the_standard_library_and_torch_come_back(tmp_path: Path, name: str) -> None:
    back = through_a_file(tmp_path / "file", TYPED[name])
    assert same(back, TYPED[name]) and type(back) is type(TYPED[name])
    if isinstance(back, defaultdict):
        assert back["new"] == []


@pytest.mark.parametrize("name", HELD)
def test_types_that_the_restored_object_holds_come_back(tmp_path: Path, name: str) -> None:
    state = HELD[name]
    back = Own(state)
    restore({"own": back}, *write(tmp_path / "file", {"own": Own(state)}))
    assert same(back.state, state) and type(back.state) is type(state)
    assert type(through_a_file(tmp_path / "file", state)) in (int, float, str, tuple, dict)


def test_a_type_that_a_file_names_is_not_imported(tmp_path: Path) -> None:
    skeleton = {"own": {"state": {"$type": "subprocess.Popen", "value": ["true"]}}}
    _, data = write(tmp_path / "file", {"own": Own(1)})
    back = Own()
    restore({"own": back}, skeleton, data)
    assert back.state == ["true"]


@pytest.mark.parametrize("name", ["float8_e8m0fnu", "float4_e2m1fn_x2", "complex128"])
def test_a_tensor_that_could_not_be_read_back_is_refused(name: str) -> None:
    dtype = getattr(torch, name, None)
    if dtype is None:
        pytest.skip("not in this torch")
    bytes_ = torch.zeros(16, dtype=torch.uint8)
    with pytest.raises(CheckpointError, match=f"torch.{name} .at own/w.*, which could not"):
        Snapshot({"own": {"w": bytes_.view(dtype)}})


@pytest.mark.parametrize("resumed", range(1, 6))
def test_schedules_with_milestones_go_on_as_if_they_had_not_been_interrupted(
    tmp_path: Path, resumed: int
) -> None:
    def make() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        schedules = torch.optim.lr_scheduler
        parts = [
            schedules.LinearLR(optimizer, 0.1, 1.0, 3),
            schedules.MultiStepLR(optimizer, [2, 4], gamma=0.1),
        ]
        return optimizer, schedules.SequentialLR(optimizer, parts, [3])

    def rates(optimizer: torch.optim.Optimizer, schedule: Any, epochs: int) -> list[float]:
        found = []
        for _ in range(epochs):
            optimizer.step()
            schedule.step()
            found.append(optimizer.param_groups[0]["lr"])
        return found

    expected = rates(*make(), 8)
    first, second = make(), make()
    before = rates(*first, resumed)
    parts = dict(zip(("optimizer", "schedule"), first, strict=True))
    written = write(tmp_path / "file", parts)
    restore(dict(zip(("optimizer", "schedule"), second, strict=True)), *written)
    assert before + rates(*second, 8 - resumed) == expected
