import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from redis.exceptions import ConnectionError as RedisConnectionError
from torch import nn

from scattershot_common.bus.keys import Keys
from scattershot_common.bus.study_info import publish
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.bus.trial_state import TrialStates
from scattershot_common.errors import ScattershotError
from scattershot_common.task.task import Data, Task
from scattershot_worker.attempt.attempt import StopSignal
from scattershot_worker.attempt.error_text import describe
from scattershot_worker.attempt.lifecycle import claim
from support.toy_task import Toy
from support.workbench import Workbench

SPEC = TrialSpec("study", "u1", 7, "coarse", {}, 5, 4)


def steady(trial: Any) -> None:
    for _ in trial.epochs(model=nn.Linear(1, 1)):
        trial.report(acc=0.5)


def raising(error: BaseException, after: int = 2) -> Callable[[Any], None]:
    """Return a train function that raises after some epochs."""

    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            if epoch > after:
                raise error
            trial.report(acc=0.5)

    return train


def here(train: Callable[..., Any], after: int) -> str:
    """Return file and line, counted from where `train` is written."""
    return f"test_attempt.py:{train.__code__.co_firstlineno + after}"


# ---- to the end


def test_a_trial_that_is_trained_to_its_end_is_complete(workbench: Workbench) -> None:
    assert workbench.run(steady) == ("ended", "complete")
    kinds = [event.kind for event in workbench.events()]
    assert kinds == ["started", "report", "report", "report", "report", "complete"]


def test_a_trial_that_is_trained_to_its_rung_is_paused(workbench: Workbench) -> None:
    assert workbench.run(steady, until=2, epochs=4) == ("ended", "paused")
    assert workbench.run(steady, attempt=2, until=4) == ("ended", "complete")
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2, 3, 4]


def test_the_supervisor_learns_of_the_study_before_the_trial_begins(workbench: Workbench) -> None:
    workbench.states.submit(7, 4)
    seen: list[Any] = []

    def begun(info: Any) -> None:
        seen.append((info, workbench.state()))
        raise RuntimeError("far enough")

    with pytest.raises(RuntimeError, match="far enough"):
        claim(workbench.context, SPEC, 1, StopSignal(), begun)
    assert seen == [(workbench.info, "waiting")]


# ---- not ours to run


def test_a_trial_that_somebody_else_has_is_left_alone(workbench: Workbench) -> None:
    workbench.states.submit(7, 4)
    workbench.states.claim(7, 1, "w2")
    assert workbench.run(steady) == ("refused", "it is running")
    assert workbench.reported() == []


def test_an_old_attempt_is_left_alone(workbench: Workbench) -> None:
    workbench.states.submit(7, 4, attempt=2)
    assert workbench.run(steady, attempt=2) == ("refused", "it is waiting")


def test_a_trial_of_a_study_that_was_replaced_is_left_alone(workbench: Workbench) -> None:
    workbench.states.submit(7, 4)
    old = replace(SPEC, uid="u0")
    outcome = claim(workbench.context, old, 1, StopSignal())
    assert outcome == ("refused", "its study has been replaced")
    assert workbench.state() == "waiting"


def test_a_study_that_was_replaced_meanwhile_is_looked_up_again(workbench: Workbench) -> None:
    workbench.run(steady)
    workbench.connection.delete(Keys("study").info)
    publish(workbench.connection, replace(workbench.info, uid="u2", task="digits"))
    spec = replace(SPEC, uid="u2", trial=8)
    workbench.states.submit(8, 1)
    seen: list[Any] = []

    def begun(info: Any) -> None:
        seen.append(info.task)
        raise RuntimeError("far enough")

    with pytest.raises(RuntimeError, match="far enough"):
        claim(workbench.context, spec, 1, StopSignal(), begun)
    assert seen == ["digits"]


def test_a_trial_of_a_study_that_nobody_published_is_an_error(workbench: Workbench) -> None:
    with pytest.raises(ScattershotError, match="no study named 'other' is in this Redis"):
        claim(workbench.context, replace(SPEC, study="other"), 1, StopSignal())


def test_a_refused_trial_fails_with_the_reason_so_that_its_user_learns_of_it(
    workbench: Workbench,
) -> None:
    workbench.context.allow = ("digits", "mine.*")
    reason = "this worker may not train the task 'task' (see --allow)"
    assert workbench.run(steady) == ("refused", reason)
    assert workbench.state() == "failed"
    assert workbench.reason() == (
        "refused by worker w1: this worker may not train the task 'task' (see --allow)"
    )


@pytest.mark.parametrize("pattern", ["task", "t*", "*"])
def test_tasks_are_allowed_by_name_or_pattern(workbench: Workbench, pattern: str) -> None:
    workbench.context.allow = ("digits", pattern)
    assert workbench.run(steady) == ("ended", "complete")


# ---- errors of the user's code


def test_an_error_fails_the_trial_with_the_line_it_came_from(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            if epoch == 3:
                raise ValueError("a bug\nwith more to say")
            trial.report(acc=0.5)

    assert workbench.run(train) == ("ended", "failed")
    assert workbench.reason() == f"ValueError: a bug ({here(train, 3)})"
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2]
    text = (workbench.folder / "trials" / "00007" / "error.txt").read_text()
    assert text.startswith("Traceback (most recent call last):")
    assert "ValueError: a bug\nwith more to say" in text


def test_an_error_inside_a_library_is_told_with_the_users_own_line(workbench: Workbench) -> None:
    def parse(trial: Any) -> None:
        json.loads("{")

    def multiply(trial: Any) -> None:
        nn.Linear(2, 2)(torch.ones(3))

    workbench.run(parse, 1)
    assert workbench.reason(1).startswith("JSONDecodeError: Expecting property name")
    assert workbench.reason(1).endswith(f"({here(parse, 1)})")
    workbench.run(multiply, 2)
    assert workbench.reason(2).startswith("RuntimeError: ")
    assert workbench.reason(2).endswith(f"({here(multiply, 1)})")


def test_what_torch_says_in_its_own_words_is_followed_by_what_to_do(workbench: Workbench) -> None:
    class Double(Task):
        def data(self) -> Data:
            part = torch.ones(4, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)
            return Data(part, part)

        def model(self, params: Any) -> nn.Module:
            return nn.Linear(3, 2)

    workbench.run(Double())
    assert workbench.reason().endswith("numpy's numbers are float64: give .float() in data()")


class Broken(Task):
    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def _maybe(self, where: str) -> None:
        if self.where == where:
            raise RuntimeError(where)

    def data(self) -> Data:
        self._maybe("data")
        part = torch.ones(4, 2), torch.zeros(4, dtype=torch.int64)
        return Data(part, part)

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        self._maybe("model")
        return nn.Linear(2, 2)

    def metrics(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        self._maybe("metrics")
        return {}


@pytest.mark.parametrize("where", ["data", "model", "metrics"])
def test_an_error_of_a_task_class_fails_the_trial_alike(workbench: Workbench, where: str) -> None:
    line = here(Broken._maybe, 2)
    assert workbench.run(Broken(where)) == ("ended", "failed")
    assert workbench.reason() == f"RuntimeError: {where} ({line})"


def test_a_task_whose_metric_is_missing_is_told_which(workbench: Workbench) -> None:
    assert workbench.run(Broken("")) == ("ended", "failed")
    assert workbench.reason() == (
        "trial.report() must give 'acc', the study's metric; "
        "it gave val_loss, train_loss, lr, grad_norm, weight_norm, update_ratio, initial_loss, "
        "chance_loss, seconds, examples_per_second, memory_mb: report it (metrics() returns it "
        "without its val_), or name one of these as [study] metric"
    )


def test_a_long_message_is_cut(workbench: Workbench) -> None:
    workbench.run(raising(ValueError("x" * 10_000)))
    assert len(workbench.reason()) < 400


def test_an_error_without_words_is_told_by_its_kind(workbench: Workbench) -> None:
    workbench.run(raising(StopIteration(), after=0))
    assert workbench.reason().startswith("StopIteration: ")


def test_sys_exit_in_a_train_function_fails_the_trial(workbench: Workbench) -> None:
    assert workbench.run(raising(SystemExit(3))) == ("ended", "failed")
    assert workbench.reason().startswith("SystemExit: 3 (test_attempt.py:")


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError("the loop was closed"),
        KeyboardInterrupt("the loop was closed"),
        GeneratorExit("the loop was closed"),
        BaseExceptionGroup("the loop was closed", [KeyboardInterrupt()]),
        type("Mine", (BaseException,), {})("the loop was closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_is_no_exception_fails_the_trial_once(
    workbench: Workbench, error: BaseException
) -> None:
    assert workbench.run(raising(error)) == ("ended", "failed")
    assert workbench.reason().startswith(f"{type(error).__name__}: the loop was closed")
    assert "(test_attempt.py:" in workbench.reason()
    assert "the loop was closed" in (workbench.folder / "trials/00007/error.txt").read_text()


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt()], ids=["cancelled", "interrupted"]
)
@pytest.mark.parametrize("part", ["data", "model", "metrics"])
def test_an_exception_that_is_no_exception_in_a_task_fails_the_trial_once(
    workbench: Workbench, error: BaseException, part: str
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    task = type("Failing", (Toy,), {part: fail})()
    assert workbench.run(task) == ("ended", "failed")
    assert workbench.reason().startswith(f"{type(error).__name__}: (test_attempt.py:")


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("Error(s) in loading state_dict for Net:\n\tMissing key(s): w\nmore", "Missing key(s): w"),
        ("\n-----\nthe shapes differ\nmore", "E: the shapes differ ("),
        ("one:\ntwo:\n", "E: one: two: ("),
        ("", "E: (test_attempt.py:"),
    ],
)
def test_of_an_error_of_several_lines_the_one_that_says_something_is_told(
    message: str, told: str
) -> None:
    try:
        raise type("E", (Exception,), {})(message)
    except Exception as error:
        assert told in describe(error) and "more" not in describe(error)


def test_the_next_trial_is_not_touched_by_an_error(workbench: Workbench) -> None:
    workbench.run(raising(ValueError("a bug")), 1)
    assert workbench.run(steady, 2) == ("ended", "complete")
    assert len(workbench.reported(2)) == 4


def test_a_folder_that_cannot_be_written_does_not_hide_the_error(
    workbench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    def train(trial: Any) -> None:
        raise ValueError("a bug")

    workbench.folder.write_text("a file where the folder should be")
    with caplog.at_level(logging.ERROR):
        assert workbench.run(train) == ("ended", "failed")
    assert workbench.reason().startswith("ValueError: a bug")
    assert "error.txt" in caplog.text


# ---- out of memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_is_worth_another_attempt(workbench: Workbench, error: Exception) -> None:
    outcome, reason = workbench.run(raising(error))
    assert (outcome, reason) == ("crash", f"out of memory: {error}")
    assert workbench.state() == "running", "the supervisor gives it back"
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2], "what is done is not lost"


# ---- an outage


@pytest.mark.parametrize("until", [1, 10_000])
def test_a_training_that_nobody_can_hear_of_is_given_back_and_never_failed(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch, until: int
) -> None:
    run = TrialStates.run
    gone = threading.Event()
    epochs: list[int] = []

    def cut_off(states: TrialStates, steps: Any) -> Any:
        if gone.is_set():
            raise RedisConnectionError("connection refused")
        return run(states, steps)

    def train(trial: Any) -> None:
        for epoch in trial.epochs():
            epochs.append(epoch)
            gone.set()
            trial.report(acc=0.5)

    monkeypatch.setattr(TrialStates, "run", cut_off)
    outcome = workbench.run(train, until=until)
    monkeypatch.undo()
    assert outcome[0] == "drain", "the supervisor gives it back once Redis is there"
    assert len(epochs) == 1 or len(epochs) < until
    assert workbench.state() == "running", "or its lease runs out, and the master takes over"
    assert workbench.reported() == []
    assert not (Path(workbench.folder) / "trials" / "00007" / "error.txt").exists()
