"""Packs in the test's own process, beside a real Redis: who comes, who goes, what is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from scattershot_common.bus.connection import connect
from scattershot_common.bus.keys import WORKERS
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialQueue, WaitingTrials
from scattershot_common.bus.signatures import Signatures
from scattershot_common.bus.signing import SECRET_VARIABLE
from scattershot_common.bus.stream import EventStream
from scattershot_common.bus.study_info import StudyInfo, publish
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.bus.trial_state import TrialStates
from scattershot_common.task.task import Data, Task
from scattershot_common.trial import MEASURED
from scattershot_worker.attempt.attempt import StopSignal
from scattershot_worker.attempt.lifecycle import WorkerContext
from scattershot_worker.attempt.reporter import Reporter
from scattershot_worker.child import run_job
from scattershot_worker.child.pack_cache import PackCache
from scattershot_worker.fused import FusedEngine, Plan, Tuner
from support.checkpoints import list_checkpoints, read_header
from support.workbench import FakeSupervisor


class Four(Task):
    """Four classes, told apart in a few epochs; calls `seen` with each lane's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Callable[[], None] = lambda: None

    def data(self) -> Data:
        generator = torch.Generator().manual_seed(0)
        classes = torch.randint(0, 4, (80,), generator=generator)
        x = torch.randn(4, 6, generator=generator)[classes]
        x = x + torch.randn(x.shape, generator=generator)
        return Data((x[:64], classes[:64]), (x[64:], classes[64:]))

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        width = params.get("hidden", 8)
        layers = [nn.Linear(6, width), nn.ReLU(), nn.Dropout(0.2)]
        return nn.Sequential(*layers, nn.Linear(width, 4))

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        self.seen()
        return super().metrics(outputs, targets)


class Shop:
    """A worker's child that fuses whatever can be fused, and a study with its queue."""

    def __init__(self, url: str, root: Path, lanes: int = 8) -> None:
        self.url, self.root = url, root
        self.connection = connect(url)
        self.queue = TrialQueue(connect(url, decode=False))
        self.task = Four()
        self.supervisor = FakeSupervisor()
        self.context = WorkerContext(self.connection, "w1", root, torch.device("cpu"), Reporter())
        tuner = Tuner(lanes, root / "lanes.json")
        self.plans: dict[str, Plan] = {}
        tuner.plan = lambda *about: self.plans.setdefault(  # type: ignore[method-assign]
            about[3].key, Plan("fused", "for the test", lanes, lanes)
        )
        self.pack_cache = PackCache(WaitingTrials(connect(url, decode=False)), tuner)
        self.study("study")

    def study(self, name: str, **about: Any) -> None:
        self.info = StudyInfo(name, "u1", "task", "val_accuracy", "maximize", **about)
        publish(self.connection, self.info)
        self.states = TrialStates(self.connection, name)

    def spec(self, trial: int, epochs: int = 4, **params: Any) -> TrialSpec:
        about = {"lr": 0.02 * (1 + trial), "batch_size": 16, **params}
        return TrialSpec(self.info.name, "u1", trial, "coarse", about, 7 + trial, epochs)

    def send(self, *trials: int, until: int = 4, failures: int = 0, **about: Any) -> None:
        for trial in trials:
            _, last = self.states.submit(trial, until, failures=failures)
            self.queue.put([(self.spec(trial, **about), last + 1)])

    def serve(self, trial: int = 0, number: int = 1, **about: Any) -> None:
        """Do what the child does with the trial's job, which is off the queue by now."""
        spec = self.spec(trial, **about)
        (mine,) = (
            one
            for one in self.pack_cache.waiting.look(spec.study, "u1", 100)
            if one.spec.trial == trial
        )
        self.pack_cache.waiting.remove([mine])
        job = replace(mine, number=number)
        signals = self.supervisor.signals[job.key] = StopSignal()
        with patch.object(run_job, "load_task", lambda name, data: self.task):
            run_job.serve(self.context, self.pack_cache, self.supervisor, job, signals)

    def at_metrics(self, count: int, act: Callable[[], None]) -> None:
        """Do something when metrics have been asked for so many times."""
        calls = 0

        def seen() -> None:
            nonlocal calls
            calls += 1
            if calls == count:
                act()

        self.task.seen = seen

    def state(self, trial: int) -> str:
        return str(self.connection.hget(self.states.keys.trial(trial), "state"))

    def history(self, trial: int, name: str = "") -> list[dict[str, float]]:
        """Return what was reported of a trial, without what a clock says."""
        events = EventStream(self.connection, name or self.info.name).read("", block_ms=None)
        return [
            {key: value for key, value in one.metrics.items() if key not in MEASURED}
            for one in events
            if one.trial == trial and one.kind == "report"
        ]

    def outcome(self, trial: int, number: int = 1) -> tuple[str, str]:
        return self.supervisor.endings[(self.info.name, trial, number)]


@pytest.fixture
def shop(redis_url: str, tmp_path: Path) -> Iterator[Shop]:
    yield Shop(redis_url, tmp_path)


def test_trials_that_fit_are_taken_off_the_queue_and_trained_together(shop: Shop) -> None:
    shop.send(*range(5))
    shop.serve(0)
    assert [shop.state(trial) for trial in range(5)] == ["complete"] * 5
    assert shop.queue.waiting() == []
    assert shop.supervisor.most == 5
    assert all(shop.outcome(trial) == ("ended", "complete") for trial in range(5))
    assert all(len(shop.history(trial)) == 4 for trial in range(5))
    for trial in range(5):
        last = list_checkpoints(shop.root / "study", trial)[-1]
        header = read_header(last)
        assert (header["trial"], header["epoch"], header["attempt"]) == (trial, 4, 1)
        assert len(header["history"]) == 4


def test_a_trial_reports_the_same_to_the_last_digit_whoever_is_beside_it(shop: Shop) -> None:
    shop.send(*range(5))
    shop.serve(0)
    together = [shop.history(trial) for trial in range(5)]
    shop.study("apart")
    for trial in range(5):
        shop.send(trial)
        shop.serve(trial)
    assert shop.supervisor.most == 5
    assert [shop.history(trial) for trial in range(5)] == together


def test_trials_of_another_shape_are_left_to_others(shop: Shop) -> None:
    shop.send(0, 1)
    shop.send(2, 3, hidden=5)
    shop.send(4)
    shop.serve(0)
    assert [shop.state(trial) for trial in range(5)] == [
        "complete", "complete", "waiting", "waiting", "complete",
    ]  # fmt: skip
    assert shop.queue.waiting() == ["study-2-a1", "study-3-a1"]
    shop.serve(2, hidden=5)
    assert shop.state(3) == "complete"


def test_lanes_that_end_are_filled_at_once_and_nothing_is_traced_anew(
    redis_url: str, tmp_path: Path
) -> None:
    shop = Shop(redis_url, tmp_path, lanes=3)
    shop.send(0, until=2, epochs=2)
    shop.send(*range(1, 8), until=3, epochs=3)
    shop.serve(0, epochs=2)
    assert [shop.state(trial) for trial in range(8)] == ["complete"] * 8
    assert shop.supervisor.most == 3
    (engine,) = shop.pack_cache.engines.values()
    assert max(width for width, _ in engine.programs) == 3


def test_no_more_than_a_workers_share_is_taken(shop: Shop) -> None:
    shop.connection.hset(WORKERS, mapping={name: "{}" for name in ("w1", "w2")})
    shop.send(*range(14))
    shop.at_metrics(1, lambda: seen.append(shop.supervisor.running))
    seen: list[int] = []
    shop.serve(0)
    assert seen == [7]


def test_what_other_workers_still_have_to_train_counts_in_the_share(shop: Shop) -> None:
    shop.connection.hset(WORKERS, mapping={name: "{}" for name in ("w1", "w2")})
    shop.send(*range(6))
    shop.states.submit(20, 40)
    shop.states.claim(20, 1, "w2")  # 40 epochs are as much as ten of these trials
    shop.at_metrics(1, lambda: seen.append(shop.supervisor.running))
    seen: list[int] = []
    shop.serve(0)
    assert seen == [6]


def test_a_lane_without_company_is_given_to_the_worker_that_trains_its_kind(shop: Shop) -> None:
    shop.send(0)
    shop.send(2, 3, hidden=5)
    shop.serve(2, hidden=5)
    shop.send(4, hidden=5)
    shop.send(5)
    (kind,) = (engine.signature.key for engine in shop.pack_cache.engines.values())
    Signatures(shop.connection, "study").join("w1", kind)
    shop.serve(4, hidden=5)
    assert shop.state(4) == "complete", "no other worker trains such trials"
    Signatures(shop.connection, "study").join("w2", kind)
    shop.send(6, hidden=5)
    shop.serve(6, hidden=5)
    assert shop.outcome(6)[0] == "yield"
    assert shop.history(6) == []
    assert Signatures(shop.connection, "study").elsewhere("w2") == set()


def test_a_lane_is_not_given_back_twice_nor_where_its_worker_would_have_nothing_to_do(
    shop: Shop,
) -> None:
    shop.send(0)
    shop.serve(0)
    (kind,) = (engine.signature.key for engine in shop.pack_cache.engines.values())
    Signatures(shop.connection, "study").join("w2", kind)
    shop.send(1)
    shop.serve(1)
    assert shop.state(1) == "complete", "nothing else waits"
    shop.send(2)
    shop.send(3, hidden=5)
    shop.serve(2)
    assert shop.outcome(2)[0] == "yield"
    shop.states.requeue(2, 1, Outcome.DRAIN, max_failures=3)
    shop.queue.put([(shop.spec(2), 2)])
    shop.serve(2, number=2)
    assert shop.state(2) == "complete"


def test_a_killed_lane_leaves_and_the_others_go_on(shop: Shop) -> None:
    shop.send(*range(3))

    def kill() -> None:
        shop.states.signal(1, StopReason.KILL, "poor")
        shop.supervisor.signals[("study", 1, 1)].set(StopReason.KILL)

    shop.at_metrics(2, kill)
    shop.serve(0)
    assert [shop.state(trial) for trial in range(3)] == ["complete", "killed", "complete"]
    assert len(shop.history(1)) < 4 == len(shop.history(2))


def test_a_kill_is_heard_without_a_message_by_the_answer_to_a_report(shop: Shop) -> None:
    # long enough for an answer to come, however busy the machine is
    shop.send(*range(3), until=200, epochs=200)
    shop.at_metrics(2, lambda: shop.states.signal(2, StopReason.KILL, "poor") and None)
    shop.serve(0, epochs=200)
    assert [shop.state(trial) for trial in range(3)] == ["complete", "complete", "killed"]


def test_a_worker_that_leaves_gives_all_back_and_takes_no_more(shop: Shop) -> None:
    shop.send(*range(4))

    def leave() -> None:
        shop.send(9)
        for signals in shop.supervisor.signals.values():
            signals.set(StopReason.DRAIN)

    shop.at_metrics(5, leave)
    shop.serve(0)
    assert [shop.outcome(trial) for trial in range(4)] == [("drain", "")] * 4
    assert shop.state(9) == "waiting"


def test_what_was_given_back_goes_on_as_if_nothing_had_been(shop: Shop) -> None:
    shop.send(*range(3))
    shop.serve(0)
    through = [shop.history(trial) for trial in range(3)]
    shop.study("stopped")
    shop.send(*range(3))

    def leave() -> None:
        for signals in shop.supervisor.signals.values():
            signals.set(StopReason.DRAIN)

    shop.at_metrics(7, leave)
    shop.serve(0)
    shop.task.seen = lambda: None
    for trial in range(3):
        assert shop.states.requeue(trial, 1, Outcome.DRAIN, max_failures=3) == "waiting"
        shop.send(trial)
    shop.serve(1, number=2)
    assert [shop.history(trial) for trial in range(3)] == through


def test_a_trial_at_its_rung_pauses_and_makes_room(shop: Shop) -> None:
    shop.send(0, 1, until=2)
    shop.send(2)
    shop.serve(0)
    assert [shop.state(trial) for trial in range(3)] == ["paused", "paused", "complete"]


def test_an_attempt_that_another_has_taken_over_changes_nothing(shop: Shop) -> None:
    shop.send(*range(3))

    def lose() -> None:
        shop.states.requeue(1, 1, Outcome.LOST, max_failures=3)
        shop.states.claim(1, 2, "w2")

    shop.at_metrics(2, lose)
    shop.serve(0)
    assert shop.outcome(1)[0] == "fenced"
    assert shop.state(1) == "running"
    assert len(shop.history(1)) <= 1
    assert [shop.state(trial) for trial in (0, 2)] == ["complete"] * 2


def test_a_lane_that_diverges_ends_with_what_it_has(shop: Shop) -> None:
    shop.send(0)
    shop.send(1, lr=1e30)
    shop.serve(0)
    assert [shop.state(trial) for trial in range(2)] == ["complete"] * 2
    assert shop.history(1)[-1]["val_loss"] != shop.history(1)[-1]["val_loss"]
    assert shop.history(0)[-1]["val_loss"] < 5


def test_an_error_that_may_be_anyones_costs_all_a_try_and_is_told_alone(shop: Shop) -> None:
    shop.send(*range(3))

    def fail() -> None:
        raise ValueError("a bug")

    shop.at_metrics(2, fail)
    shop.serve(0)
    for trial in range(3):
        outcome, reason = shop.outcome(trial)
        assert outcome == "crash" and reason.startswith("in a pack: ValueError: a bug")
    shop.at_metrics(1, fail)
    shop.states.requeue(1, 1, Outcome.CRASH, max_failures=3)
    shop.send(1)
    shop.serve(1, number=2)
    assert shop.state(1) == "failed"


def test_trials_that_may_bring_a_process_down_are_kept_apart(shop: Shop) -> None:
    shop.send(0, 1)
    shop.send(2, 3, failures=2)
    shop.serve(0)
    assert [shop.state(trial) for trial in range(4)] == ["complete"] * 2 + ["waiting"] * 2
    shop.serve(2)
    assert [shop.state(trial) for trial in (2, 3)] == ["complete", "waiting"]


def test_memory_that_runs_out_halves_the_lanes_and_fails_nobody(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(redis_url, tmp_path, lanes=4)
    shop.send(*range(4))
    whole, calls = FusedEngine.train_epoch, []

    def hungry(self: FusedEngine, check: Callable[[], None]) -> Any:
        calls.append(len(self.lanes))
        if len(self.lanes) > 2:
            raise MemoryError("no 99 GiB left")
        return whole(self, check)

    monkeypatch.setattr(FusedEngine, "train_epoch", hungry)
    shop.serve(0)
    assert [shop.outcome(trial) for trial in range(4)] == [("drain", "")] * 4
    (plan,) = shop.plans.values()
    assert plan.lanes == 2
    for trial in range(4):
        assert shop.states.requeue(trial, 1, Outcome.DRAIN, max_failures=3) == "waiting"
        shop.send(trial)
    shop.serve(0, number=2)
    assert [shop.state(trial) for trial in range(4)] == ["complete"] * 4
    assert max(calls[1:]) == 2


def test_unsigned_trials_are_not_taken(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.send(1)
    monkeypatch.setenv(SECRET_VARIABLE, "of the cluster")
    shop.connection.delete("ss:study:study")
    shop.study("study")
    shop.send(0, 2)
    shop.serve(0)
    assert [shop.state(trial) for trial in range(3)] == ["complete", "waiting", "complete"]


def test_how_a_kind_is_trained_is_settled_by_the_first_worker(shop: Shop) -> None:
    shop.send(0, 1)
    shop.serve(0)
    (key,) = shop.pack_cache.engines
    assert Signatures(shop.connection, "study").mode(key) == "fused"
    assert shop.supervisor.wanted == 8
    shop.study("other")
    Signatures(shop.connection, "other").settle(key, "alone", "by another worker")
    shop.send(0, 1)
    shop.serve(0)
    assert [shop.state(trial) for trial in range(2)] == ["complete", "waiting"]
    assert shop.supervisor.wanted == 1


class Own(Four):
    def optimizer(self, model: nn.Module, params: Mapping[str, Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)


def test_what_cannot_be_fused_is_trained_alone_and_the_log_says_why(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.task = Own()
    shop.send(0, 1)
    with caplog.at_level("INFO"):
        shop.serve(0)
        shop.serve(1)
    assert [shop.state(trial) for trial in range(2)] == ["complete"] * 2
    said = [one for one in caplog.messages if "trained alone" in one]
    assert said == ["trained alone: its task makes the optimizer itself"]
