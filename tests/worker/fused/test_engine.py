"""Lanes of one program against the same trials alone, and against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scattershot_common.task.task import Data, Task
from scattershot_worker.fused import FusedEngine, Lane, probe
from scattershot_worker.fused.program import EagerGraph
from scattershot_worker.monitors import sampling
from scattershot_worker.monitors.monitor import Monitor
from scattershot_worker.training.data import tensors_of
from scattershot_worker.training.evaluation import evaluate, predictions_of
from scattershot_worker.training.seeding import seed_everything
from scattershot_worker.training.training import Training, train_epoch

CPU = torch.device("cpu")
EXAMPLES, BATCH = 72, 16  # four batches and an odd one


class Block(nn.Module):
    """A transformer's block of plain modules."""

    def __init__(self, width: int, p: float) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        # the bias of a key has no gradient but the rounding's
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.drop = nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.first(x)).view(batch, length, 3, 2, width // 2)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.drop(self.out(attended))
        out: Tensor = x + self.drop(self.narrow(F.gelu(self.wide(self.second(x)))))
        return out


class Transformer(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 8, 12) * 0.1)
        self.into, self.block, self.out = nn.Linear(8, 12), Block(12, p), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.into(x.view(-1, 8, 8)) + self.place
        out: Tensor = self.out(self.block(hidden).mean(1))
        return out


def _mlp(p: float) -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Dropout(p), nn.Linear(12, 4)]
    return nn.Sequential(*layers)


def _layer_norm(p: float) -> nn.Module:
    first = [nn.Flatten(), nn.Linear(64, 12), nn.LayerNorm(12), nn.GELU(), nn.Dropout(p)]
    return nn.Sequential(*first, nn.Linear(12, 4))


def _cnn(p: float) -> nn.Module:
    first = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(p)]
    return nn.Sequential(*first, nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))


def _batch_norm(p: float) -> nn.Module:
    # a bias before the norm would have no gradient but the rounding's
    first = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Flatten(), nn.Dropout(p), nn.Linear(36, 4))


MODELS: dict[str, Callable[[float], nn.Module]] = {
    "mlp": _mlp,
    "layer norm": _layer_norm,
    "cnn": _cnn,
    "batch norm": _batch_norm,
    "transformer": Transformer,
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"optimizer": "sgd", "momentum": 0.9},
    "nesterov": {"optimizer": "sgd", "momentum": 0.8, "nesterov": True},
    "rmsprop": {"optimizer": "rmsprop", "lr": 3e-3},
    "rmsprop momentum": {"optimizer": "rmsprop", "lr": 3e-3, "momentum": 0.5},
    "adagrad": {"optimizer": "adagrad"},
    "adam": {"optimizer": "adam", "beta1": 0.8},
    "adamw": {"optimizer": "adamw"},
}


class Small(Task):
    """Noisy pictures of four classes."""

    def __init__(self, model: str, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self._model, self._dtype = MODELS[model], dtype

    @cache  # noqa: B019
    def data(self) -> Data:
        generator = torch.Generator().manual_seed(0)
        classes = torch.randint(0, 4, (EXAMPLES + 20,), generator=generator)
        pictures = torch.randn(4, 1, 8, 8, generator=generator)[classes]
        x = (pictures + torch.randn(pictures.shape, generator=generator)).to(self._dtype)
        return Data((x[:EXAMPLES], classes[:EXAMPLES]), (x[EXAMPLES:], classes[EXAMPLES:]))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return self._model(params.get("dropout", 0.2)).to(self._dtype)


def training(task: Task, number: int, **params: Any) -> Training:
    """Return trial `number`, made as a worker makes it; the same each time."""
    seed_everything(number)
    settings = {"lr": 0.02, "weight_decay": 0.01, "batch_size": BATCH, **params}
    return Training(task, settings, seed=100 + number, budget=4, device=CPU)


def admit(engine: FusedEngine, trials: Sequence[Training]) -> list[Lane]:
    lanes = [engine.lane(trial) for trial in trials]
    for lane in lanes:
        engine.admit(lane)
    return lanes


def epoch(
    engine: FusedEngine, number: int, *, but: Mapping[Lane, int] | None = None
) -> list[float]:
    for lane in engine.lanes:
        lane.training.begin_epoch((but or {}).get(lane, number), [])
    return [float(loss) for loss in engine.train_epoch(lambda: None).losses.values()]


def engine_of(task: Task, like: Training) -> FusedEngine:
    return FusedEngine(task, task.data(), probe(task, like, task.data()))


def assert_same(lane: Lane, alone: Training, within: float) -> None:
    """Hold a lane's whole state to that of the trial alone."""
    for name, part in alone.parts.items():
        _compare(lane.parts[name].state_dict(), part.state_dict(), name, within)


def _compare(lane: Any, alone: Any, at: str, within: float) -> None:
    if isinstance(alone, Tensor):
        assert lane.dtype == alone.dtype and lane.shape == alone.shape, at
        assert torch.allclose(lane, alone, rtol=within, atol=within), at
    elif isinstance(alone, dict):
        assert lane.keys() == alone.keys(), at
        for key in alone:
            _compare(lane[key], alone[key], f"{at}/{key}", within)
    elif isinstance(alone, list) and alone and isinstance(alone[0], dict):
        for i, (a, b) in enumerate(zip(lane, alone, strict=True)):
            _compare(a, b, f"{at}/{i}", within)
    else:
        assert lane == alone, at


def state(lane: Lane) -> list[Tensor]:
    """Return copies of all tensors of a lane."""
    tensors: list[Tensor] = []

    def walk(value: Any) -> None:
        if isinstance(value, Tensor):
            tensors.append(value.clone())
        elif isinstance(value, Mapping):
            for item in value.values():
                walk(item)

    for part in lane.parts.values():
        walk(part.state_dict())
    return tensors


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second) > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ---- against trials alone


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_a_lane_comes_to_the_state_of_the_trial_alone(model: str, optimizer: str) -> None:
    task = Small(model)
    own_params = [{"lr": 0.01 * (1 + i), "dropout": 0.1 + 0.1 * i} for i in range(3)]
    params = OPTIMIZERS[optimizer]
    if "lr" in params:
        own_params = [{"dropout": own["dropout"]} for own in own_params]
    alone = [training(task, i, **params, **own) for i, own in enumerate(own_params)]
    engine = engine_of(task, alone[0])
    lanes = admit(engine, [training(task, i, **params, **own) for i, own in enumerate(own_params)])
    for number in (1, 2):
        losses = epoch(engine, number)
        results = engine.evaluate(task.data().val, lambda: None)
        for lane, trial, loss in zip(lanes, alone, losses, strict=True):
            trial.begin_epoch(number, [])
            assert loss == pytest.approx(
                float(train_epoch(trial, task.data().train, lambda: None)[0]), rel=1e-5
            )
            expected = evaluate(trial.hooks, trial.model, task.data().val, CPU)
            assert results[lane].metrics == pytest.approx(expected.metrics, rel=1e-9)
            assert torch.allclose(results[lane].outputs, expected.outputs, rtol=1e-9)
            predictions = task.predictions(expected.outputs)
            assert torch.allclose(results[lane].predictions, predictions, rtol=1e-9)
    for lane, trial in zip(lanes, alone, strict=True):
        assert_same(lane, trial, 1e-10)


PRACTICE: dict[str, dict[str, Any]] = {
    "label smoothing": {"label_smoothing": 0.1},
    "clipped norm": {"clip_norm": 0.3},
    "clipped values": {"clip_value": 0.02},
    "averaged weights": {"ema": 0.9},
    "cosine after a warmup": {"schedule": "cosine", "warmup": 0.1},
    "one cycle": {"schedule": "one_cycle"},
    "drops": {"schedule": "step", "drop_every": 0.25},
    "annealed momentum": {"momentum": 0.5, "final_momentum": 0.99},
    "everything decays": {"decay_all": True},
}


@pytest.mark.parametrize("name", PRACTICE)
def test_each_trick_is_a_lanes_own(name: str) -> None:
    task = Small("mlp")
    with_it = {"optimizer": "sgd", "momentum": 0.5, **PRACTICE[name]}
    without: dict[str, Any] = {"decay_all": True} if name == "everything decays" else {}
    alone = [training(task, 0, **with_it), training(task, 1, optimizer="adamw", **without)]
    engine = engine_of(task, alone[0])
    lanes = admit(
        engine, [training(task, 0, **with_it), training(task, 1, optimizer="adamw", **without)]
    )
    for number in (1, 2, 3):
        epoch(engine, number)
        for trial in alone:
            trial.begin_epoch(number, [])
            train_epoch(trial, task.data().train, lambda: None)
    for lane, trial in zip(lanes, alone, strict=True):
        assert_same(lane, trial, 1e-10)
        assert lane.training.lr == trial.lr
    if alone[0].average is not None:
        averaged = engine.evaluate(task.data().val, lambda: None, averaged=True)
        with alone[0].average.in_place():
            expected = evaluate(alone[0].hooks, alone[0].model, task.data().val, CPU)
        assert [*averaged] == [lanes[0]]
        assert averaged[lanes[0]].metrics == pytest.approx(expected.metrics, rel=1e-9)


def test_in_single_precision_the_curves_agree_to_rounding() -> None:
    task = Small("mlp", torch.float32)
    alone = [training(task, i, **OPTIMIZERS["momentum"]) for i in range(3)]
    engine = engine_of(task, alone[0])
    lanes = admit(engine, [training(task, i, **OPTIMIZERS["momentum"]) for i in range(3)])
    for number in range(1, 7):
        losses = epoch(engine, number)
        results = engine.evaluate(task.data().val, lambda: None)
        for trial, lane, loss in zip(alone, lanes, losses, strict=True):
            trial.begin_epoch(number, [])
            expected = float(train_epoch(trial, task.data().train, lambda: None)[0])
            assert loss == pytest.approx(expected, rel=1e-4)
            metrics = evaluate(trial.hooks, trial.model, task.data().val, CPU).metrics
            assert results[lane].metrics == pytest.approx(metrics, rel=1e-3)


class OwnWords(Small):
    """A task with a loss and metrics of its own, per lane."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = outputs.gather(-1, targets.unsqueeze(-1))
        return (outputs - right + 1).clamp(min=0).sum(-1).mean() - 1

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        return {
            "top2": (outputs.topk(2)[1] == targets.unsqueeze(-1)).any(-1).double().mean().item()
        }


class Values(Small):
    kind = "regression"

    @cache  # noqa: B019
    def data(self) -> Data:
        parts = [tensors_of(part) for part in (super().data().train, super().data().val)]
        train, val = ((x, y.double().unsqueeze(1)) for x, y in parts)
        return Data(train, val)

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1)).double()


class Logit(Small):
    """One output for two classes."""

    @cache  # noqa: B019
    def data(self) -> Data:
        parts = [tensors_of(part) for part in (super().data().train, super().data().val)]
        train, val = ((x, y > 1) for x, y in parts)
        return Data(train, val)

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).double()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets.to(outputs.dtype))


class Places(Small):
    """A class for each place of a picture, classes second."""

    @cache  # noqa: B019
    def data(self) -> Data:
        parts = [tensors_of(part) for part in (super().data().train, super().data().val)]
        train, val = ((x, (x[:, 0] > 0).long()) for x, _ in parts)
        return Data(train, val)

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        return nn.Conv2d(1, 8, 3, padding=1).double()


@pytest.mark.parametrize("kind", [OwnWords, Values, Logit, Places])
def test_own_losses_and_metrics_and_regression_are_honoured(kind: type[Small]) -> None:
    task = kind("mlp")
    alone = [training(task, i, lr=0.005) for i in range(2)]
    engine = engine_of(task, alone[0])
    lanes = admit(engine, [training(task, i, lr=0.005) for i in range(2)])
    epoch(engine, 1)
    results = engine.evaluate(task.data().val, lambda: None)
    for lane, trial in zip(lanes, alone, strict=True):
        trial.begin_epoch(1, [])
        train_epoch(trial, task.data().train, lambda: None)
        assert_same(lane, trial, 1e-10)
        expected = evaluate(trial.hooks, trial.model, task.data().val, CPU)
        assert results[lane].metrics == pytest.approx(expected.metrics, rel=1e-9)
        predictions = predictions_of(trial.hooks, expected.outputs, expected.targets)
        assert torch.allclose(results[lane].predictions, predictions)


# ---- against other lanes: to the last bit


@pytest.mark.parametrize("model", ["mlp", "layer norm", "transformer", "batch norm", "cnn"])
def test_a_lane_does_not_depend_on_how_many_there_are_or_which(model: str) -> None:
    task = Small(model, torch.float32)
    params = OPTIMIZERS["adamw"]
    expected: list[Tensor] | None = None
    for beside in ([], [5], [6, 7, 8], [9, 10, 11, 12, 13, 14, 15]):
        trials = [training(task, i, **params) for i in beside]
        at = len(trials) // 2
        trials.insert(at, training(task, 0, **params))
        engine = engine_of(task, trials[0])
        lanes = admit(engine, trials)
        epoch(engine, 1)
        epoch(engine, 2)
        if expected is None:
            expected = state(lanes[at])
        assert_equal(state(lanes[at]), expected)


def test_a_lane_does_not_depend_on_when_it_came_or_who_left() -> None:
    task = Small("mlp", torch.float32)
    params = OPTIMIZERS["momentum"]
    engine = engine_of(task, training(task, 0, **params))
    (by_itself,) = admit(engine, [training(task, 0, **params)])
    for number in (1, 2, 3):
        epoch(engine, number)
    expected = state(by_itself)

    engine = engine_of(task, training(task, 0, **params))
    lanes = admit(engine, [training(task, i, **params) for i in (1, 2, 3)])
    epoch(engine, 1)
    (late,) = admit(engine, [training(task, 0, **params)])
    epoch(engine, 9, but={late: 1})
    engine.release(lanes[0])

    def leave() -> None:
        engine.release(lanes[2])

    for lane in engine.lanes:
        lane.training.begin_epoch(2 if lane is late else 9, [])
    engine.train_epoch(leave)  # in the middle of an epoch
    assert late not in lanes and len(engine.lanes) == 2
    admit(engine, [training(task, 4, **params)])
    epoch(engine, 9, but={late: 3})
    assert_equal(state(late), expected)


def test_the_nan_of_one_lane_stays_its_own() -> None:
    task = Small("mlp", torch.float32)
    engine = engine_of(task, training(task, 0))
    (calm,) = admit(engine, [training(task, 0)])
    epoch(engine, 1)
    expected = state(calm)

    engine = engine_of(task, training(task, 0))
    calm, wild = admit(engine, [training(task, 0), training(task, 1, lr=1e30)])
    losses = epoch(engine, 1)
    assert losses[1] != losses[1] and losses[0] == losses[0]
    assert_equal(state(calm), expected)
    engine.release(wild)
    results = engine.evaluate(task.data().val, lambda: None)
    assert [*results] == [calm]


# ---- in and out


def test_a_trial_goes_from_alone_to_a_lane_and_back_without_a_bit_lost() -> None:
    task = Small("batch norm", torch.float32)
    params = {**OPTIMIZERS["adam"], "ema": 0.9}
    alone = training(task, 0, **params)
    alone.begin_epoch(1, [])
    train_epoch(alone, task.data().train, lambda: None)

    engine = engine_of(task, alone)
    lane = engine.lane(training(task, 0, **params))
    for name, part in alone.parts.items():
        lane.parts[name].load_state_dict(part.state_dict())
    engine.admit(lane)
    admit(engine, [training(task, 1, **params)])
    assert_same(lane, alone, 0.0)
    epoch(engine, 2)

    restored = training(task, 0, **params)
    for name, part in restored.parts.items():
        part.load_state_dict(lane.parts[name].state_dict())
    assert_same(lane, restored, 0.0)


def test_a_lane_that_goes_on_elsewhere_comes_to_the_same_numbers() -> None:
    task = Small("mlp", torch.float32)
    params = {**OPTIMIZERS["adamw"], "schedule": "cosine", "ema": 0.8}
    engine = engine_of(task, training(task, 0, **params))
    (uninterrupted,) = admit(engine, [training(task, 0, **params)])
    for number in (1, 2, 3, 4):
        epoch(engine, number)

    engine = engine_of(task, training(task, 0, **params))
    (first,) = admit(engine, [training(task, 0, **params)])
    epoch(engine, 1)
    epoch(engine, 2)
    other = engine_of(task, training(task, 0, **params))
    resumed = other.lane(training(task, 0, **params))
    for name, part in first.parts.items():
        resumed.parts[name].load_state_dict(part.state_dict())
    admit(other, [training(task, 3, **params)])
    other.admit(resumed)
    epoch(other, 1, but={resumed: 3})
    epoch(other, 2, but={resumed: 4})
    assert_equal(state(resumed), state(uninterrupted))


def test_what_one_engine_has_traced_another_of_its_kind_uses() -> None:
    task = Small("mlp")
    like = training(task, 0)
    first = engine_of(task, like)
    admit(first, [training(task, i) for i in range(3)])
    epoch(first, 1)
    second = FusedEngine(task, task.data(), first.signature, first.programs)
    lanes = admit(second, [training(task, i) for i in range(3)])
    before = dict(first.programs)
    epoch(second, 1)
    assert second.programs == before and before
    assert_equal(state(lanes[1]), state(first.lanes[1]))


def test_idle_rows_are_given_up_once_a_narrower_program_would_have_paid() -> None:
    task = Small("mlp")
    engine = engine_of(task, training(task, 0))
    lanes = admit(engine, [training(task, i) for i in range(6)])
    epoch(engine, 1)
    for lane in lanes[1:]:
        engine.release(lane)
    engine._steps.trace_seconds = engine._row_seconds * 10
    epoch(engine, 2)
    assert {width for width, _ in engine.programs} == {6}
    for number in range(3, 8):
        engine._steps.trace_seconds = engine._row_seconds * 10
        epoch(engine, number)
    assert {width for width, _ in engine.programs} == {2, 6}


# ---- as a device's graph


@pytest.mark.parametrize("model", ["mlp", "batch norm"])
def test_a_step_that_is_replayed_as_a_graph_gives_the_same_bits(model: str) -> None:
    task = Small(model, torch.float32)
    params = OPTIMIZERS["adam"]
    states = []
    for graph in (None, EagerGraph):
        like = training(task, 0, **params)
        engine = FusedEngine(task, task.data(), probe(task, like, task.data()), graph=graph)
        lanes = admit(engine, [training(task, i, **params) for i in range(3)])
        epoch(engine, 1)
        lanes += admit(engine, [training(task, i, **params) for i in range(3, 9)])  # the rows move
        epoch(engine, 2)
        engine.release(lanes[0])
        epoch(engine, 3)
        states.append([tensor for lane in lanes[1:] for tensor in state(lane)])
    assert_equal(*states)


def test_a_step_that_cannot_be_captured_is_done_without_a_graph(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refuses(EagerGraph):
        def capture(self, work: Callable[[], None]) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    task = Small("mlp", torch.float32)
    like = training(task, 0)
    engine = FusedEngine(task, task.data(), probe(task, like, task.data()), graph=Refuses)
    (lane,) = admit(engine, [like])
    epoch(engine, 1)
    plain = engine_of(task, training(task, 0))
    (other,) = admit(plain, [training(task, 0)])
    epoch(plain, 1)
    assert_equal(state(lane), state(other))
    assert len([message for message in caplog.messages if "without a device graph" in message]) == 1


def test_lanes_are_looked_at_after_steps_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "STEPS_PER_RECORD", 10)
    monkeypatch.setattr(sampling, "STEPS_PER_OBSERVATION", 15)
    task = Small("mlp")
    engine = engine_of(task, training(task, 0))
    engine.monitors = True
    (lane,) = admit(engine, [training(task, 0)])
    recorded, observed = [], []
    for number in (1, 2, 3, 4):  # of five steps
        epoch(engine, number)
        results = engine.evaluate(task.data().val, lambda: None)
        metrics, record = engine.observations(lane, results[lane])
        recorded += [number] if record is not None else []
        observed += [number] if "grad_norm" in metrics else []
        assert "train_accuracy" in metrics
    assert (recorded, observed) == ([1, 2, 4], [1, 2, 3, 4])


@pytest.mark.parametrize(
    "task", [*(Small(model) for model in MODELS), Logit("mlp")], ids=[*MODELS, "one logit"]
)
def test_a_lane_is_looked_at_as_the_trial_alone(task: Small) -> None:
    alone = [training(task, i, clip_norm=0.5) for i in range(3)]
    monitors = [Monitor(trial) for trial in alone]
    engine = engine_of(task, alone[0])
    engine.monitors = True
    lanes = admit(engine, [training(task, i, clip_norm=0.5) for i in range(3)])
    val = task.data().val
    for number in (1, 2, 3, 4):
        epoch(engine, number)
        results = engine.evaluate(val, lambda: None)
        for lane, trial, monitor in zip(lanes, alone, monitors, strict=True):
            trial.begin_epoch(number, [])
            train_epoch(trial, task.data().train, lambda: None, monitor)
            with monitor.evaluation():
                evaluation = evaluate(trial.hooks, trial.model, val, CPU)
            expected, own_record = monitor.end_epoch(evaluation.outputs, evaluation.targets)
            metrics, record = engine.observations(lane, results[lane])
            assert metrics == pytest.approx(expected, rel=1e-3) and "train_accuracy" in metrics
            assert (record is None) is (own_record is None) is (number not in (1, 4))
            if record is not None and own_record is not None:
                assert set(record) == set(own_record)
                assert record["noise"] == pytest.approx(own_record["noise"], rel=1e-3)
                of_lane, of_trial = dict[str, Any](record), dict[str, Any](own_record)
                keys = ["parameters", "activations"]
                if number == 1 and record["activations"]:
                    keys.append("initial_activations")
                for key in keys:
                    names = [entry["name"] for entry in of_trial[key]]
                    assert [entry["name"] for entry in of_lane[key]] == names
