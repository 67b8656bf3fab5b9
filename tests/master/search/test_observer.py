"""Observers follow a search; a failing or a slow one changes nothing for it."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scattershot_master.search import observer as module
from scattershot_master.search.observer import Observer, Observers
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord
from support.pretend_master import Master, Watcher, study_file, table
from support.pretend_worker import PretendWorkers
from support.waiting import eventually

STUDY = study_file(stage=[{"name": "only", "trials": 6, "epochs": 3}], kill={"rule": "none"})
HOOKS = [name for name in vars(Observer) if not name.startswith("_") and name != "in_loop"]


class Recorder(Observer):
    """Notes every call, and acts on it."""

    def __init__(self, act: Callable[[], object] = lambda: None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.act = act

    def __getattribute__(self, name: str) -> Any:
        if name not in HOOKS:
            return super().__getattribute__(name)

        def hook(*arguments: Any, **_: Any) -> None:
            self.calls.append((name, arguments[0] if arguments else None))
            self.act()

        return hook

    def named(self, hook: str) -> list[Any]:
        return [argument for name, argument in self.calls if name == hook]


class InLoop(Recorder):
    in_loop = True


def trial(number: int = 0) -> TrialRecord:
    return TrialRecord(number, "only", {}, 0, 3, 3)


def call_all(observers: Observers) -> None:
    observers.stage_opened(StageRecord("only", 0, 1, []))
    observers.trial_started(trial())
    observers.epoch_reported(trial(), {"epoch": 1})
    observers.trial_ended(trial())
    observers.stage_closed(StageRecord("only", 0, 1, []))
    observers.note("so", routine=True)
    observers.tick(StudyState(), [], rate=None)
    observers.study_finished(StudyState())


def test_every_hook_does_nothing_unless_overridden() -> None:
    observers = Observers([Observer()])
    call_all(observers)
    observers.close()


def test_an_observer_of_the_loop_gets_every_hook_at_once() -> None:
    recorder = InLoop()
    observers = Observers([recorder])
    call_all(observers)
    observers.close()
    assert {name for name, _ in recorder.calls} == {*HOOKS}


def test_any_other_gets_all_but_the_ticks_in_a_thread_of_its_own_and_in_order() -> None:
    threads: set[int] = set()
    recorder = Recorder(lambda: threads.add(threading.get_ident()))
    observers = Observers([recorder])
    for number in range(50):
        observers.trial_ended(trial(number))
    call_all(observers)
    observers.close()
    ended = [record.number for record in recorder.named("trial_ended")]
    assert ended == [*range(50), 0]
    assert {name for name, _ in recorder.calls} == {*HOOKS} - {"tick"}
    assert threads and threading.get_ident() not in threads


def test_it_gets_a_record_as_it_was_when_the_hook_was_called() -> None:
    gate = threading.Event()
    recorder = Recorder(gate.wait)
    observers = Observers([recorder])
    record = trial()
    for worker in ("a", "b"):
        record.worker = worker
        observers.trial_started(record)
    gate.set()
    observers.close()
    assert [one.worker for one in recorder.named("trial_started")] == ["a", "b"]


def fail() -> None:
    raise ValueError("no disk")


@pytest.mark.parametrize("kind", [Recorder, InLoop])
def test_one_that_fails_is_called_no_more_and_the_others_are_told_once(
    kind: type[Recorder],
) -> None:
    failing, other = kind(fail), InLoop()
    observers = Observers([failing, other])
    observers.trial_started(trial())

    def told() -> bool:
        observers.trial_ended(trial())
        return bool(other.named("note"))

    eventually(told)
    calls = len(failing.calls)
    call_all(observers)
    observers.close()
    assert len(failing.calls) == calls == 1
    note = f"{kind.__name__}: ValueError: no disk; it is called no more"
    assert other.named("note").count(note) == 1


def test_one_that_is_slow_holds_nobody_up_and_misses_what_does_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_WAITING", 10)
    monkeypatch.setattr(module, "_CLOSE_S", 0.1)
    slow, other = Recorder(lambda: time.sleep(60)), InLoop()
    observers = Observers([slow, other])
    begun = time.monotonic()
    for number in range(200):
        observers.trial_ended(trial(number))
    observers.close()
    assert time.monotonic() - begun < 5
    assert len(other.named("trial_ended")) == 200
    assert other.named("note") == ["Recorder: it is too slow: part of what happens is left out"]


def test_a_search_tells_its_observers_what_happens(redis_url: str, tmp_path: Path) -> None:
    recorder = InLoop()
    with PretendWorkers(redis_url, 2):
        master = Master(redis_url, tmp_path, STUDY, Watcher(), observers=[recorder])
        assert master.run()
    for hook, count in {"trial_started": 6, "trial_ended": 6, "epoch_reported": 18}.items():
        assert len(recorder.named(hook)) == count
    assert {record.number for record in recorder.named("trial_ended")} == {*range(6)}
    assert [stage.name for stage in recorder.named("stage_opened")] == ["only"]
    assert [stage.closed for stage in recorder.named("stage_closed")] == [True]
    assert recorder.named("tick")


def test_a_search_comes_to_the_same_end_whatever_its_observers_do(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLOSE_S", 0.1)
    tables = []
    for name, others in {
        "none": [],
        "bad": [Recorder(fail), InLoop(fail), Recorder(lambda: time.sleep(60))],
    }.items():
        with PretendWorkers(redis_url, 2):
            master = Master(redis_url, tmp_path / name, STUDY, Watcher(), observers=others)
            assert master.run()
        tables.append(table(master.state))
        master.redis_study.connection.flushdb()
    assert tables[0] == tables[1]
    assert sum("called no more" in note for note in master.view.notes) == 2
