"""A worker with checkpoints in an object store, and one whose store does not answer."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.errors import CheckpointError, StoreUnreachable
from scattershot_common.store.checkpoint_names import parse_name, trial_key
from scattershot_common.store.local import LocalStore
from scattershot_common.store.object_store import ObjectStore
from scattershot_common.store.open_store import study_store
from scattershot_common.store.store import Store
from scattershot_worker.attempt import reporter
from scattershot_worker.attempt.attempt import StopSignal
from scattershot_worker.attempt.lifecycle import claim
from support.workbench import Workbench


def train(trial: Any) -> None:
    """Learn a little, with every source of random numbers that torch has."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for epoch in trial.epochs(model=model, optimizer=optimizer):
        loss = (model(torch.randn(16, 4)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trial.report(acc=-float(epoch), loss=loss)


@pytest.fixture
def store(workbench: Workbench, bucket: str) -> Store:
    """The store of the workbench's study, which is told to keep its checkpoints there."""
    workbench.context.studies["study"] = replace(workbench.info, store=f"{bucket}/x")
    return study_store(f"{bucket}/x", workbench.folder, "study")


def test_a_trial_goes_on_from_its_store_as_it_would_from_a_disk(
    workbench: Workbench, store: Store, tmp_path: Path
) -> None:
    assert workbench.run(train, until=2, epochs=4) == ("ended", "paused")
    assert workbench.run(train, until=4, attempt=2) == ("ended", "complete")
    away = workbench.reported()
    assert not workbench.folder.exists()
    names = store.checkpoints(7)
    assert [name[-15:-12] for name in names] == ["001", "003", "004"]
    assert store.header(trial_key(7, names[-1]))["attempt"] == 2

    workbench.context.studies["study"] = workbench.info
    workbench.run(train, trial=8, until=4)
    assert workbench.reported(8) == away
    local = LocalStore(workbench.folder)
    here = local.tensors(trial_key(8, local.checkpoints(8)[-1]), "model")
    there = store.tensors(trial_key(7, names[-1]), "model")
    assert all(there[name].tobytes() == here[name].tobytes() for name in here)


def test_a_damaged_object_is_passed_over_for_the_one_before(
    workbench: Workbench, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    workbench.run(train, until=3, epochs=4)
    newest = trial_key(7, store.checkpoints(7)[-1])
    store.write(newest, store.read(newest)[:-9])
    assert workbench.run(train, until=4, attempt=2) == ("ended", "complete")
    assert f"{store.path_of(newest)} is damaged" in caplog.text
    whole = [epoch for epoch, _ in workbench.reported()]
    assert whole[-3:] == [2, 3, 4]


def test_a_failed_trials_traceback_lies_beside_its_checkpoints(
    workbench: Workbench, store: Store
) -> None:
    def broken(trial: Any) -> None:
        train(trial)
        raise ValueError("of mine")

    assert workbench.run(broken)[1] == "failed"
    text = store.read(trial_key(7, "error.txt")).decode()
    assert text.startswith("Traceback") and "ValueError: of mine" in text


def test_a_store_that_cannot_be_used_fails_the_trial_with_the_remedy(
    workbench: Workbench, bucket: str
) -> None:
    workbench.context.studies["study"] = replace(workbench.info, store="s3://no-such-bucket")
    assert workbench.run(train) == ("ended", "failed")
    assert "there is no bucket 'no-such-bucket'; make it" in workbench.reason()
    assert workbench.reported() == []


def test_a_place_that_is_no_store_is_refused_before_the_trial_is_claimed(
    workbench: Workbench, tmp_path: Path
) -> None:
    workbench.context.studies["study"] = replace(workbench.info, store=f"file://{tmp_path}")
    workbench.states.submit(7, 4)
    with pytest.raises(CheckpointError, match="must be the URL of an object store"):
        claim(workbench.context, TrialSpec("study", "u1", 7, "coarse", {}, 5, 4), 1, StopSignal())
    assert workbench.state() == "waiting"


# ---- away for a while


class Outage:
    """A store that does not answer `times` calls about epoch `since` or later; -1: none of them."""

    def __init__(self, patch: pytest.MonkeyPatch, call: str, times: int = 0) -> None:
        self.times, self.since, self.met = times, 0, threading.Event()
        work: Callable[..., Any] = getattr(ObjectStore, call)

        def call_or_fail(store: ObjectStore, key: Any, *more: Any) -> Any:
            self.meet(key)
            return work(store, key, *more)

        patch.setattr(ObjectStore, call, call_or_fail)

    def meet(self, key: Any) -> None:
        told = parse_name(key.rpartition("/")[2]) if isinstance(key, str) else None
        if self.times and (told is None or told.epoch >= self.since):
            self.times -= 1
            self.met.set()
            raise StoreUnreachable("s3://x: the store does not answer (for the test)")


@pytest.fixture
def outage(store: Store, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch, "write")


@pytest.mark.parametrize("at", [1, 4])
def test_training_waits_for_a_store_that_is_away_and_loses_nothing(
    workbench: Workbench, store: Store, outage: Outage, at: int
) -> None:
    outage.times, outage.since = 2, at
    assert workbench.run(train) == ("ended", "complete")
    assert outage.met.is_set()
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2, 3, 4]
    assert store.header(trial_key(7, store.checkpoints(7)[-1]))["epoch"] == 4


@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_trial_whose_store_stays_away_is_given_back_and_goes_on_elsewhere(
    workbench: Workbench,
    store: Store,
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
    at: int,
) -> None:
    monkeypatch.setattr(reporter, "_PATIENCE", 0.0)
    outage.times, outage.since = -1, at
    outcome, reason = workbench.run(train)
    assert (outcome, workbench.state()) == ("crash", "running"), "the supervisor gives it back"
    assert "does not answer" in reason
    assert [epoch for epoch, _ in workbench.reported()] == list(range(1, at))
    outage.times = 0
    workbench.states.requeue(7, 1, Outcome.CRASH, max_failures=3, reason=reason)
    assert workbench.run(train, attempt=2) == ("ended", "complete")
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2, 3, 4]


def test_a_trial_does_not_start_again_because_its_store_is_away(
    workbench: Workbench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    workbench.run(train, until=2, epochs=4)
    for call in ("names", "read"):
        with pytest.MonkeyPatch.context() as patch:
            Outage(patch, call, -1)
            attempt = 2 if call == "names" else 3
            outcome, _ = workbench.run(train, until=4, attempt=attempt)
        assert outcome == "crash"
        workbench.states.requeue(7, attempt, Outcome.CRASH, max_failures=9)
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2]
    assert workbench.run(train, until=4, attempt=4) == ("ended", "complete")
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2, 3, 4]


@pytest.mark.parametrize(("stop", "ends"), [("kill", "killed"), ("drain", "running")])
def test_who_is_to_stop_does_not_wait_for_a_store(
    workbench: Workbench, outage: Outage, stop: Any, ends: str
) -> None:
    outage.times = -1

    def asker() -> None:
        outage.met.wait(30)
        workbench.signals.set(StopReason(stop))

    asking = threading.Thread(target=asker)

    asking.start()
    outcome, _ = workbench.run(train, until=100)
    asking.join()
    assert outcome == ("ended" if stop == "kill" else stop)
    assert workbench.state() == ends
    assert workbench.reported() == []


def test_leftovers_that_a_store_does_not_remove_harm_nobody(
    workbench: Workbench, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    Outage(monkeypatch, "delete", -1)
    assert workbench.run(train) == ("ended", "complete")
    assert len(store.checkpoints(7)) == 4
