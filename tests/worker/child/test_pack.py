"""Packs in the test's own process, with a real Redis: which trials join, leave and report."""

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
from scattershot_common.bus.lane_signatures import Signatures
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialQueue, WaitingTrials
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
from scattershot_worker.child import pack_cache, run_job
from scattershot_worker.child.pack_cache import PackCache
from scattershot_worker.fused import FusedEngine, Plan, Tuner
from support.checkpoints import list_checkpoints, read_header
from support.workbench import FakeSupervisor


class Four(Task):
    """Four classes, learned in a few epochs; calls `seen` whenever metrics are computed."""

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


class Child:
    """A worker's child that trains in lanes whatever it can, and a study with its queue."""

    def __init__(self, url: str, root: Path, lanes: int = 8) -> None:
        self.url, self.root = url, root
        self.connection = connect(url)
        self.queue = TrialQueue(connect(url, decode=False))
        #: Called whenever metrics are asked for; kept off the task, whose attributes are put back.
        self.on_metrics: Callable[[], None] = lambda: None
        self.task = Four()
        self.task.seen = self._metrics_asked
        self.supervisor = FakeSupervisor()
        self.context = WorkerContext(self.connection, "w1", root, torch.device("cpu"), Reporter())
        tuner = Tuner(lanes, root / "lanes.json")
        self.plans: dict[str, Plan] = {}
        tuner.plan = lambda *settings: self.plans.setdefault(  # type: ignore[method-assign]
            settings[3].key, Plan("fused", "for the test", lanes, lanes)
        )
        self.pack_cache = PackCache(WaitingTrials(connect(url, decode=False)), tuner)
        self.study("study")

    def study(self, name: str, **settings: Any) -> None:
        self.info = StudyInfo(name, "u1", "task", "val_accuracy", "maximize", **settings)
        publish(self.connection, self.info)
        self.states = TrialStates(self.connection, name)

    def spec(self, trial: int, epochs: int = 4, **params: Any) -> TrialSpec:
        settings = {"lr": 0.02 * (1 + trial), "batch_size": 16, **params}
        return TrialSpec(self.info.name, "u1", trial, "coarse", settings, 7 + trial, epochs)

    def send(self, *trials: int, until: int = 4, failures: int = 0, **settings: Any) -> None:
        for trial in trials:
            _, last = self.states.submit(trial, until, failures=failures)
            self.queue.put([(self.spec(trial, **settings), last + 1)])

    def serve(self, trial: int = 0, number: int = 1, **settings: Any) -> None:
        """Do what the child does with the trial's job, which is off the queue by now."""
        spec = self.spec(trial, **settings)
        (queued,) = (
            waiting
            for waiting in self.pack_cache.waiting.look(spec.study, "u1", 100)
            if waiting.spec.trial == trial
        )
        self.pack_cache.waiting.remove([queued])
        job = replace(queued, number=number)
        signals = self.supervisor.signals[job.key] = StopSignal()
        with patch.object(pack_cache, "load_task", lambda name, data: self.task):
            run_job.serve(self.context, self.pack_cache, self.supervisor, job, signals)

    def _metrics_asked(self) -> None:
        self.on_metrics()

    def at_metrics(self, count: int, act: Callable[[], None]) -> None:
        """Do something when metrics are computed for the `count`-th time."""
        calls = 0

        def seen() -> None:
            nonlocal calls
            calls += 1
            if calls == count:
                act()

        self.on_metrics = seen

    def state(self, trial: int) -> str:
        return str(self.connection.hget(self.states.keys.trial(trial), "state"))

    def history(self, trial: int, name: str = "") -> list[dict[str, float]]:
        """Return what was reported of a trial, without what is measured."""
        events = EventStream(self.connection, name or self.info.name).read("", block_ms=None)
        return [
            {key: value for key, value in event.metrics.items() if key not in MEASURED}
            for event in events
            if event.trial == trial and event.kind == "report"
        ]

    def outcome(self, trial: int, number: int = 1) -> tuple[str, str]:
        return self.supervisor.endings[(self.info.name, trial, number)]


@pytest.fixture
def child(redis_url: str, tmp_path: Path) -> Iterator[Child]:
    yield Child(redis_url, tmp_path)


def test_trials_that_fit_are_taken_off_the_queue_and_trained_together(child: Child) -> None:
    child.send(*range(5))
    child.serve(0)
    assert [child.state(trial) for trial in range(5)] == ["complete"] * 5
    assert child.queue.waiting() == []
    assert child.supervisor.most == 5
    assert all(child.outcome(trial) == ("ended", "complete") for trial in range(5))
    assert all(len(child.history(trial)) == 4 for trial in range(5))
    for trial in range(5):
        last = list_checkpoints(child.root / "study", trial)[-1]
        header = read_header(last)
        assert (header["trial"], header["epoch"], header["attempt"]) == (trial, 4, 1)
        assert len(header["history"]) == 4


def test_a_trial_reports_the_same_to_the_last_digit_whoever_is_beside_it(child: Child) -> None:
    child.send(*range(5))
    child.serve(0)
    together = [child.history(trial) for trial in range(5)]
    child.study("apart")
    for trial in range(5):
        child.send(trial)
        child.serve(trial)
    assert child.supervisor.most == 5
    assert [child.history(trial) for trial in range(5)] == together


def test_trials_of_another_shape_are_left_to_others(child: Child) -> None:
    child.send(0, 1)
    child.send(2, 3, hidden=5)
    child.send(4)
    child.serve(0)
    assert [child.state(trial) for trial in range(5)] == [
        "complete", "complete", "waiting", "waiting", "complete",
    ]  # fmt: skip
    assert child.queue.waiting() == ["study-2-a1", "study-3-a1"]
    child.serve(2, hidden=5)
    assert child.state(3) == "complete"


def test_lanes_that_end_are_filled_at_once_and_nothing_is_traced_anew(
    redis_url: str, tmp_path: Path
) -> None:
    child = Child(redis_url, tmp_path, lanes=3)
    child.send(0, until=2, epochs=2)
    child.send(*range(1, 8), until=3, epochs=3)
    child.serve(0, epochs=2)
    assert [child.state(trial) for trial in range(8)] == ["complete"] * 8
    assert child.supervisor.most == 3
    (engine,) = child.pack_cache.engines.values()
    assert max(width for width, _ in engine.programs) == 3


def test_no_more_than_a_workers_share_is_taken(child: Child) -> None:
    child.connection.hset(WORKERS, mapping={name: "{}" for name in ("w1", "w2")})
    child.send(*range(14))
    child.at_metrics(1, lambda: seen.append(child.supervisor.running))
    seen: list[int] = []
    child.serve(0)
    assert seen == [7]


def test_what_other_workers_still_have_to_train_counts_in_the_share(child: Child) -> None:
    child.connection.hset(WORKERS, mapping={name: "{}" for name in ("w1", "w2")})
    child.send(*range(6))
    child.states.submit(20, 40)
    child.states.claim(20, 1, "w2")  # 40 epochs are as much as ten of these trials
    child.at_metrics(1, lambda: seen.append(child.supervisor.running))
    seen: list[int] = []
    child.serve(0)
    assert seen == [6]


def test_a_single_lane_is_given_to_the_worker_that_trains_its_kind(
    child: Child,
) -> None:
    child.send(0)
    child.send(2, 3, hidden=5)
    child.serve(2, hidden=5)
    child.send(4, hidden=5)
    child.send(5)
    (kind,) = (engine.signature.key for engine in child.pack_cache.engines.values())
    Signatures(child.connection, "study").join("w1", kind)
    child.serve(4, hidden=5)
    assert child.state(4) == "complete", "no other worker trains such trials"
    Signatures(child.connection, "study").join("w2", kind)
    child.send(6, hidden=5)
    child.serve(6, hidden=5)
    assert child.outcome(6)[0] == "yield"
    assert child.history(6) == []
    assert Signatures(child.connection, "study").elsewhere("w2") == set()


def test_a_lane_is_not_given_back_twice_nor_where_its_worker_would_have_nothing_to_do(
    child: Child,
) -> None:
    child.send(0)
    child.serve(0)
    (kind,) = (engine.signature.key for engine in child.pack_cache.engines.values())
    Signatures(child.connection, "study").join("w2", kind)
    child.send(1)
    child.serve(1)
    assert child.state(1) == "complete", "nothing else waits"
    child.send(2)
    child.send(3, hidden=5)
    child.serve(2)
    assert child.outcome(2)[0] == "yield"
    child.states.requeue(2, 1, Outcome.DRAIN, max_failures=3)
    child.queue.put([(child.spec(2), 2)])
    child.serve(2, number=2)
    assert child.state(2) == "complete"


def test_a_killed_lane_leaves_and_the_others_go_on(child: Child) -> None:
    child.send(*range(3))

    def kill() -> None:
        child.states.signal(1, StopReason.KILL, "poor")
        child.supervisor.signals[("study", 1, 1)].set(StopReason.KILL)

    child.at_metrics(2, kill)
    child.serve(0)
    assert [child.state(trial) for trial in range(3)] == ["complete", "killed", "complete"]
    assert len(child.history(1)) < 4 == len(child.history(2))


def test_a_kill_is_heard_without_a_message_by_the_answer_to_a_report(child: Child) -> None:
    # long enough for an answer to come, however busy the machine is
    child.send(*range(3), until=200, epochs=200)
    child.at_metrics(2, lambda: child.states.signal(2, StopReason.KILL, "poor") and None)
    child.serve(0, epochs=200)
    assert [child.state(trial) for trial in range(3)] == ["complete", "complete", "killed"]


def test_a_worker_that_leaves_gives_all_back_and_takes_no_more(child: Child) -> None:
    child.send(*range(4))

    def leave() -> None:
        child.send(9)
        for signals in child.supervisor.signals.values():
            signals.set(StopReason.DRAIN)

    child.at_metrics(5, leave)
    child.serve(0)
    assert [child.outcome(trial) for trial in range(4)] == [("drain", "")] * 4
    assert child.state(9) == "waiting"


def test_what_was_given_back_goes_on_as_if_nothing_had_been(child: Child) -> None:
    child.send(*range(3))
    child.serve(0)
    through = [child.history(trial) for trial in range(3)]
    child.study("stopped")
    child.send(*range(3))

    def leave() -> None:
        for signals in child.supervisor.signals.values():
            signals.set(StopReason.DRAIN)

    child.at_metrics(7, leave)
    child.serve(0)
    child.on_metrics = lambda: None
    for trial in range(3):
        assert child.states.requeue(trial, 1, Outcome.DRAIN, max_failures=3) == "waiting"
        child.send(trial)
    child.serve(1, number=2)
    assert [child.history(trial) for trial in range(3)] == through


def test_a_trial_at_its_rung_pauses_and_makes_room(child: Child) -> None:
    child.send(0, 1, until=2)
    child.send(2)
    child.serve(0)
    assert [child.state(trial) for trial in range(3)] == ["paused", "paused", "complete"]


def test_an_attempt_that_another_has_taken_over_changes_nothing(child: Child) -> None:
    child.send(*range(3))

    def lose() -> None:
        child.states.requeue(1, 1, Outcome.LOST, max_failures=3)
        child.states.claim(1, 2, "w2")

    child.at_metrics(2, lose)
    child.serve(0)
    assert child.outcome(1)[0] == "fenced"
    assert child.state(1) == "running"
    assert len(child.history(1)) <= 1
    assert [child.state(trial) for trial in (0, 2)] == ["complete"] * 2


def test_a_lane_that_diverges_ends_with_what_it_has(child: Child) -> None:
    child.send(0)
    child.send(1, lr=1e30)
    child.serve(0)
    assert [child.state(trial) for trial in range(2)] == ["complete"] * 2
    assert child.history(1)[-1]["val_loss"] != child.history(1)[-1]["val_loss"]
    assert child.history(0)[-1]["val_loss"] < 5


def test_an_error_that_may_be_anyones_costs_all_a_try_and_is_told_alone(child: Child) -> None:
    child.send(*range(3))

    def fail() -> None:
        raise ValueError("a bug")

    child.at_metrics(2, fail)
    child.serve(0)
    for trial in range(3):
        outcome, reason = child.outcome(trial)
        assert outcome == "crash" and reason.startswith("in a pack: ValueError: a bug")
    child.at_metrics(1, fail)
    child.states.requeue(1, 1, Outcome.CRASH, max_failures=3)
    child.send(1)
    child.serve(1, number=2)
    assert child.state(1) == "failed"


def test_trials_that_may_bring_a_process_down_are_kept_apart(child: Child) -> None:
    child.send(0, 1)
    child.send(2, 3, failures=2)
    child.serve(0)
    assert [child.state(trial) for trial in range(4)] == ["complete"] * 2 + ["waiting"] * 2
    child.serve(2)
    assert [child.state(trial) for trial in (2, 3)] == ["complete", "waiting"]


def test_memory_that_runs_out_halves_the_lanes_and_fails_nobody(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child(redis_url, tmp_path, lanes=4)
    child.send(*range(4))
    whole, calls = FusedEngine.train_epoch, []

    def hungry(self: FusedEngine, check: Callable[[], None]) -> Any:
        calls.append(len(self.lanes))
        if len(self.lanes) > 2:
            raise MemoryError("no 99 GiB left")
        return whole(self, check)

    monkeypatch.setattr(FusedEngine, "train_epoch", hungry)
    child.serve(0)
    assert [child.outcome(trial) for trial in range(4)] == [("drain", "")] * 4
    (plan,) = child.plans.values()
    assert plan.lanes == 2
    for trial in range(4):
        assert child.states.requeue(trial, 1, Outcome.DRAIN, max_failures=3) == "waiting"
        child.send(trial)
    child.serve(0, number=2)
    assert [child.state(trial) for trial in range(4)] == ["complete"] * 4
    assert max(calls[1:]) == 2


def test_unsigned_trials_are_not_taken(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    child.send(1)
    monkeypatch.setenv(SECRET_VARIABLE, "of the cluster")
    child.connection.delete("ss:study:study")
    child.study("study")
    child.send(0, 2)
    child.serve(0)
    assert [child.state(trial) for trial in range(3)] == ["complete", "waiting", "complete"]


def test_how_a_kind_is_trained_is_settled_by_the_first_worker(child: Child) -> None:
    child.send(0, 1)
    child.serve(0)
    (key,) = child.pack_cache.engines
    assert Signatures(child.connection, "study").mode(key) == "fused"
    assert child.supervisor.wanted == 8
    child.study("other")
    Signatures(child.connection, "other").settle(key, "alone", "by another worker")
    child.send(0, 1)
    child.serve(0)
    assert [child.state(trial) for trial in range(2)] == ["complete", "waiting"]
    assert child.supervisor.wanted == 1


class Own(Four):
    def optimizer(self, model: nn.Module, params: Mapping[str, Any]) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1)


def test_what_cannot_be_fused_is_trained_alone_and_the_log_says_why(
    child: Child, caplog: pytest.LogCaptureFixture
) -> None:
    child.task = Own()
    child.send(0, 1)
    with caplog.at_level("INFO"):
        child.serve(0)
        child.serve(1)
    assert [child.state(trial) for trial in range(2)] == ["complete"] * 2
    reasons = [message for message in caplog.messages if "trained alone" in message]
    assert reasons == ["trained alone: its task makes the optimizer itself"]
