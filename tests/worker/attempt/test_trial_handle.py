import math
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.errors import CheckpointError
from scattershot_common.store.checkpoint_names import parse_name
from scattershot_worker.attempt.attempt import TrialStopped
from support import checkpoints
from support.waiting import eventually
from support.workbench import METRIC, Workbench

OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}
NOTHING: Callable[[int, int], None] = lambda epoch, batch: None  # noqa: E731


def learner(
    optimizer: str = "momentum", at: Callable[[int, int], None] = NOTHING
) -> Callable[[Any], None]:
    """Return a train function that uses every source of random numbers there is.

    `at(epoch, batch)` is called before every batch.
    """

    def train(trial: Any) -> None:
        points = torch.Generator().manual_seed(1)
        x = torch.randn(48, 6, generator=points)
        y = (x.sum(1) > 0).long()
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 2))
        made = OPTIMIZERS[optimizer](model.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(made, 2, 0.5)
        for epoch in trial.epochs(model=model, optimizer=made, scheduler=scheduler):
            total = 0.0
            for batch, index in enumerate(torch.randperm(48).split(12)):
                at(epoch, batch)
                trial.check()
                noise = random.random() + float(np.random.rand())
                loss = functional.cross_entropy(model(x[index] * (1 + noise)), y[index])
                made.zero_grad()
                loss.backward()
                made.step()
                total += loss.item()
            scheduler.step()
            trial.report(
                acc=total,
                lr=scheduler.get_last_lr()[0],
                python=random.random(),
                numpy=np.random.rand(),
                torch=torch.rand(()),
            )

    return train


def counter(values: list[float] | None = None) -> Callable[[Any], None]:
    """Return a train function that reports `values`, with a model to checkpoint."""

    def train(trial: Any) -> None:
        model = nn.Linear(1, 1)
        for epoch in trial.epochs(model=model):
            trial.report(acc=values[epoch - 1] if values else epoch / 100)

    return train


def same_end(workbench: Workbench, event: int, other: int) -> bool:
    """Return whether two trials ended with the same history and weights, bit for bit."""
    if workbench.last_header(event)["history"] != workbench.last_header(other)["history"]:
        return False
    first, second = workbench.last_tensors(event), workbench.last_tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# ---- going on


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("epoch", "batch"), [(1, 2), (2, 0), (4, 3), (6, 1)])
def test_a_trial_cut_off_anywhere_ends_bit_for_bit_as_one_that_was_not(
    workbench: Workbench, optimizer: str, epoch: int, batch: int
) -> None:
    def drain(at_epoch: int, at_batch: int) -> None:
        if (at_epoch, at_batch) == (epoch, batch):
            workbench.signals.set(StopReason.DRAIN)

    assert workbench.run(learner(optimizer), 1, until=6) == ("ended", "complete")
    assert workbench.run(learner(optimizer, drain), 2, until=6) == ("drain", "")
    assert len(workbench.reported(2)) == epoch - 1
    workbench.states.requeue(2, 1, Outcome.DRAIN, max_failures=3)
    assert workbench.run(learner(optimizer), 2, attempt=2, until=6) == ("ended", "complete")
    assert workbench.reported(2) == workbench.reported(1)
    assert same_end(workbench, 1, 2)


def test_a_trial_that_was_paused_ends_as_one_that_was_not(workbench: Workbench) -> None:
    workbench.run(learner(), 1, until=6)
    for attempt, until in enumerate((2, 3, 6), 1):
        outcome = workbench.run(learner(), 2, attempt=attempt, until=until, epochs=6)
        assert outcome == ("ended", "paused" if until < 6 else "complete")
    assert same_end(workbench, 1, 2)


def test_trials_of_one_seed_are_alike_and_of_two_are_not(workbench: Workbench) -> None:
    for trial, seed in ((1, 5), (2, 5), (3, 6)):
        workbench.run(learner(), trial, seed=seed)
    assert same_end(workbench, 1, 2)
    assert not same_end(workbench, 1, 3)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(workbench: Workbench) -> None:
    def crash(epoch: int, batch: int) -> None:
        if epoch == 5:
            raise MemoryError

    workbench.run(learner(), 1, until=6)
    assert workbench.run(learner(at=crash), 2, until=6)[0] == "crash"
    workbench.states.requeue(2, 1, Outcome.CRASH, max_failures=3)
    *_, before, newest = workbench.checkpoints(2)
    assert [checkpoints.read_header(event)["epoch"] for event in (before, newest)] == [3, 4]
    newest.write_bytes(newest.read_bytes()[:-9])
    assert workbench.run(learner(), 2, attempt=2, until=6) == ("ended", "complete")
    again = [epoch for epoch, _ in workbench.reported(2)]
    assert again == [1, 2, 3, 4, 5, 6], "no epoch before the damaged one is trained again"
    assert workbench.reported(2) == workbench.reported(1)
    assert same_end(workbench, 1, 2)


def test_without_any_sound_checkpoint_a_trial_starts_again(workbench: Workbench) -> None:
    workbench.run(learner(), 1)
    workbench.run(learner(), 2, until=2, epochs=4)
    for path in workbench.checkpoints(2):
        path.write_bytes(b"torn")
    assert workbench.run(learner(), 2, attempt=2) == ("ended", "complete")
    assert workbench.reported(2) == workbench.reported(1)
    assert same_end(workbench, 1, 2)


def test_a_checkpoint_that_was_never_reported_is_not_gone_on_from(workbench: Workbench) -> None:
    """Its worker lost the trial before the report was accepted."""
    workbench.run(learner(), 1)
    workbench.run(learner(), 2, until=2, epochs=4)
    workbench.connection.hset(workbench.states.keys.trial(2), "epoch", "1")
    seen = []
    workbench.run(learner(at=lambda epoch, batch: seen.append(epoch)), 2, attempt=2)
    assert seen[0] == 2
    assert same_end(workbench, 1, 2)


@pytest.mark.parametrize("change", [{"seed": 6}, {"params": {"lr": 0.2}}])
def test_another_trials_checkpoint_is_refused(workbench: Workbench, change: Any) -> None:
    workbench.run(counter(), until=2, epochs=4, params={"lr": 0.1})
    again = {"params": {"lr": 0.1}, **change}
    assert workbench.run(counter(), attempt=2, **again) == ("ended", "failed")
    assert "belongs to another trial (its hyperparameters differ)" in workbench.reason()
    assert "--fresh" in workbench.reason()


def test_a_part_that_was_not_there_before_is_an_error(workbench: Workbench) -> None:
    def grown(trial: Any) -> None:
        for _ in trial.epochs(model=nn.Linear(1, 1), ema=nn.Linear(1, 1)):
            trial.report(acc=0.1)

    workbench.run(counter(), until=2, epochs=4)
    assert workbench.run(grown, attempt=2) == ("ended", "failed")
    assert "the checkpoint holds no 'ema'" in workbench.reason()


def test_the_history_is_there_from_the_first_epoch_on(workbench: Workbench) -> None:
    seen: list[Any] = []

    def train(trial: Any) -> None:
        for _ in trial.epochs(model=nn.Linear(1, 1)):
            seen.append([line["epoch"] for line in trial.history])
            trial.report(acc=0.1)
        seen.append((trial.done, trial.budget))

    workbench.run(train, until=2, epochs=4)
    workbench.run(train, attempt=2, until=4)
    assert seen == [[], [1], (2, 4), [1, 2], [1, 2, 3], (4, 4)]


def test_a_trial_with_nothing_left_to_do_ends_at_once(workbench: Workbench) -> None:
    workbench.run(counter(), until=4, epochs=6)
    workbench.states.submit(7, 6)
    workbench.connection.hset(workbench.states.keys.trial(7), "until", "4")
    assert workbench.run(counter(), attempt=2, epochs=6) == ("ended", "paused")
    assert len(workbench.reported()) == 4


# ---- what a train function must do


def ends_failed(workbench: Workbench, train: Callable[[Any], None], reason: str) -> None:
    assert workbench.run(train) == ("ended", "failed")
    assert workbench.state() == "failed"
    assert workbench.reason() == reason


def test_a_report_must_give_the_studys_metric(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs():
            trial.report(accuracy=0.5, loss=1.0)

    expected = "trial.report() must give 'acc', the study's metric; it gave accuracy, loss"
    assert workbench.run(train) == ("ended", "failed")
    assert workbench.reason().startswith(expected)
    assert workbench.reason().endswith("or name one of these as [study] metric")
    assert workbench.reported() == []


def test_the_nearest_of_what_was_reported_is_named(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs():
            trial.report(loss=1.0, acc_=0.5)

    assert workbench.run(train) == ("ended", "failed")
    assert workbench.reason().endswith(
        'or name one of these as [study] metric; did you mean "acc_"?'
    )


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("epoch", "'epoch' is a column of scattershot's own"),
        ("trial", "'trial' is a column of scattershot's own"),
        ("best_value", "'best_value' is a column of scattershot's own"),
        ("", "'' is empty"),
        ("a\nb", "'a\\nb' has characters that are not printable"),
        ("a\x1b[2J", "'a\\x1b[2J' has characters that are not printable"),
        (3, "3 is not text"),
    ],
)
def test_a_metric_under_an_impossible_name_fails_the_trial(
    workbench: Workbench, name: Any, why: str
) -> None:
    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            trial.report({name: epoch - 1, "acc": 0.5})

    expected = f"a metric cannot be called so: {why}; report it as another name"
    ends_failed(workbench, train, expected)
    assert workbench.reported() == []


@pytest.mark.parametrize("name", ["seconds", "lr", "val/loss x", "größe", "val_epoch"])
def test_other_names_are_reported_as_they_are(workbench: Workbench, name: str) -> None:
    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            trial.report({name: epoch, "acc": 0.5})

    assert workbench.run(train) == ("ended", "complete")


def test_an_epoch_must_be_reported(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for epoch in trial.epochs():
            if epoch == 1:
                trial.report(acc=0.5)

    expected = "epoch 2 ended without trial.report(): call it once in every epoch"
    ends_failed(workbench, train, expected)
    assert workbench.reported() == [(1, {"acc": 0.5})]


def test_an_epoch_must_not_be_reported_twice(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs():
            trial.report(acc=0.5)
            trial.report(acc=0.6)

    expected = (
        "trial.report() must be called once in every epoch of trial.epochs(); "
        "epoch 1 is reported already"
    )
    ends_failed(workbench, train, expected)
    assert workbench.reported() == [(1, {"acc": 0.5})]


def test_a_report_outside_of_epochs_is_refused(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        trial.report(acc=0.5)

    expected = "trial.report() must be called once in every epoch of trial.epochs(); none has begun"
    ends_failed(workbench, train, expected)


def test_all_epochs_must_be_trained(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for epoch in trial.epochs():
            trial.report(acc=0.5)
            if epoch == 2:
                break

    expected = (
        "the train function returned after 2 of 4 epochs; loop over trial.epochs(...) to its end"
    )
    ends_failed(workbench, train, expected)
    assert len(workbench.reported()) == 2


def test_what_has_no_state_cannot_be_given_to_epochs(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs(model=nn.Linear(1, 1), losses=[1.0]):
            trial.report(acc=0.5)

    expected = "trial.epochs(losses=…): a list has no state_dict() and load_state_dict()"
    ends_failed(workbench, train, expected)


def test_a_state_that_is_not_plain_is_told_with_its_place(workbench: Workbench) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"cache": {1, 2}}

        def set_extra_state(self, state: Any) -> None:
            pass

    def train(trial: Any) -> None:
        for _ in trial.epochs(model=Odd(1, 1)):
            trial.report(acc=0.5)

    assert workbench.run(train) == ("ended", "failed")
    assert "cannot hold a set (at model/_extra_state/cache)" in workbench.reason()
    assert workbench.reported() == []


@pytest.mark.parametrize(
    ("value", "reported"),
    [(0.5, 0.5), (1, 1.0), (torch.tensor([0.25]), 0.25), (np.float32(0.5), 0.5), ("0.5", 0.5)],
)
def test_whatever_is_a_number_can_be_reported(
    workbench: Workbench, value: Any, reported: float
) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs():
            trial.report(acc=value)

    workbench.run(train, until=1)
    assert workbench.reported() == [(1, {"acc": reported})]


@pytest.mark.parametrize(
    ("value", "kind"),
    [("good", "str"), (None, "NoneType"), (torch.ones(2), "Tensor of 2: take its mean")],
)
def test_what_is_no_number_is_refused(workbench: Workbench, value: Any, kind: str) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs():
            trial.report(acc=0.5, loss=value)

    ends_failed(workbench, train, f"trial.report(loss=…) wants a number; it got a {kind}")


def test_metrics_can_be_given_as_a_dict_too(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs():
            trial.report({"acc": 0.5, "top-5": 0.9}, loss=1.0)

    workbench.run(train, until=1)
    assert workbench.reported() == [(1, {"acc": 0.5, "top-5": 0.9, "loss": 1.0})]


# ---- stopping


def test_a_kill_is_heard_at_the_next_batch(workbench: Workbench) -> None:
    batches: list[int] = []

    def train(trial: Any) -> None:
        for _ in trial.epochs():
            for batch in trial.batches(range(1000)):
                batches.append(batch)
                if batch == 3:
                    workbench.signals.set(StopReason.KILL)
            trial.report(acc=0.5)

    assert workbench.run(train) == ("ended", "killed")
    assert batches == [0, 1, 2, 3]
    assert workbench.state() == "killed"


def test_the_answer_to_a_report_kills_too(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            if epoch == 2:
                workbench.states.signal(7, StopReason.KILL, "too poor")
            trial.report(acc=0.5)

    assert workbench.run(train, until=500) == ("ended", "killed")
    assert 2 <= len(workbench.reported()) < 500
    assert workbench.reason() == "too poor"
    assert workbench.last_header()["epoch"] == len(workbench.reported())


def test_an_except_clause_of_the_user_does_not_catch_a_stop(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs():
            try:
                workbench.signals.set(StopReason.KILL)
                trial.check()
            except Exception as error:
                raise AssertionError("caught") from error
            trial.report(acc=0.5)

    assert workbench.run(train) == ("ended", "killed")


def test_a_zombie_leaves_without_a_word(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            if epoch == 2:
                eventually(workbench.reported)
                workbench.states.requeue(7, 1, Outcome.LOST, max_failures=3)
                workbench.states.claim(7, 2, "w2")
            trial.report(acc=0.5)

    assert workbench.run(train, until=500)[0] == "fenced"
    assert [event.kind for event in workbench.events()] == [
        "started",
        "report",
        "waiting",
        "started",
    ]
    assert workbench.state() == "running"


def test_what_a_zombie_still_had_to_report_does_not_reach_the_next_trial(
    workbench: Workbench,
) -> None:
    """Its last epochs wait behind a slow disk when it learns that it is fenced."""
    disk = threading.Event()
    write = checkpoints.write

    def slow(*args: Any, **kwargs: Any) -> None:
        assert disk.wait(20)
        write(*args, **kwargs)

    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            if epoch == 3:
                workbench.signals.set(StopReason.FENCED)
                threading.Timer(0.2, disk.set).start()
            trial.report(acc=0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scattershot_common.local_files.write", slow)
        assert workbench.run(train)[0] == "fenced"
        assert disk.is_set(), "it left before its epochs were written"
    assert len(workbench.reported()) == 3


# ---- checkpoints and reports


def test_an_epoch_without_a_finite_metric_is_reported_without_a_checkpoint(
    workbench: Workbench,
) -> None:
    workbench.run(counter([0.1, math.nan, math.inf, 0.2]))
    reports = [event for event in workbench.events() if event.kind == "report"]
    assert [bool(event.checkpoint) for event in reports] == [True, False, False, True]
    assert math.isnan(reports[1].metrics["acc"]) and reports[2].metrics["acc"] == math.inf
    names = [parse_name(path.name) for path in workbench.checkpoints()]
    assert [name.epoch for name in names if name] == [1, 4]


def test_after_a_nan_a_trial_goes_on_from_before_it(workbench: Workbench) -> None:
    seen: list[int] = []

    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            seen.append(epoch)
            trial.report(acc=math.nan if epoch == 2 else 0.1)

    workbench.run(train, until=2, epochs=4)
    workbench.run(train, attempt=2)
    assert seen == [1, 2, 2, 3, 4]
    assert [epoch for epoch, _ in workbench.reported()] == [1, 2, 3, 4]


def test_the_best_and_the_last_two_checkpoints_stay(workbench: Workbench) -> None:
    workbench.run(counter([0.1, 0.9, 0.9, 0.5, 0.3]), until=5)
    assert [path.name for path in workbench.checkpoints()] == [
        "acc=0.90000-trial=00007-epoch=002.safetensors",
        "acc=0.50000-trial=00007-epoch=004.safetensors",
        "acc=0.30000-trial=00007-epoch=005.safetensors",
    ]


def test_where_less_is_better_the_smallest_stays(workbench: Workbench) -> None:
    workbench.minimize()
    workbench.run(counter([0.5, 0.1, 0.9, 0.3]))
    names = [parse_name(path.name) for path in workbench.checkpoints()]
    assert [name.value for name in names if name] == [0.1, 0.9, 0.3]


def test_the_best_checkpoint_stays_from_attempt_to_attempt(workbench: Workbench) -> None:
    workbench.run(counter([0.9, 0.1]), until=2, epochs=4)
    workbench.run(counter([0.0, 0.0, 0.2, 0.3]), attempt=2)
    names = [parse_name(path.name) for path in workbench.checkpoints()]
    assert [name.epoch for name in names if name] == [1, 3, 4]


def test_a_trial_without_parts_leaves_no_files(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs():
            trial.report(acc=0.5)

    assert workbench.run(train) == ("ended", "complete")
    assert not workbench.folder.exists()


def test_a_checkpoint_tells_all_about_its_trial(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            predictions = np.full((3, 2), 0.5)
            trial.report(acc=epoch / 10, predictions=predictions, targets=[0, 1, 1])

    workbench.run(train, until=2, params={"lr": 0.1})
    header: Any = workbench.last_header()
    del header["state"]
    assert header == {
        "format": 1,
        "study": "study",
        "trial": 7,
        "stage": "coarse",
        "attempt": 1,
        "epoch": 2,
        "params": {"lr": 0.1},
        "seed": 5,
        "metric": METRIC,
        "goal": "maximize",
        "value": 0.2,
        "history": [{"epoch": 1, "acc": 0.1}, {"epoch": 2, "acc": 0.2}],
    }
    saved = checkpoints.tensors(workbench.checkpoints()[-1], "")
    assert saved["predictions"].tolist() == [[0.5, 0.5]] * 3
    assert saved["predictions"].dtype == np.float32
    assert saved["targets"].tolist() == [0, 1, 1]


def test_no_report_is_seen_before_its_checkpoint_stands(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints.write
    seen: list[tuple[int, int]] = []

    def watched(path: str, data: bytes, *, sync: bool) -> None:
        before = len(workbench.reported())
        name = parse_name(Path(path).name)
        assert name is not None
        write(path, data, sync=sync)
        seen.append((name.epoch, before))

    monkeypatch.setattr("scattershot_common.local_files.write", watched)
    workbench.run(counter(), until=20)
    assert [epoch for epoch, _ in seen] == list(range(1, 21))
    assert all(reported < epoch for epoch, reported in seen)
    assert len(workbench.reported()) == 20


def test_every_reported_checkpoint_stands_when_its_report_is_sent(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = workbench.states.run
    standing: list[bool] = []

    def watched(states: Any, steps: Any) -> Any:
        for name, _, arguments in steps:
            if name == "report":
                path = workbench.folder / "trials" / "00007" / arguments[3]
                standing.append(path.is_file() and checkpoints.verify(path.read_bytes()))
        return run(steps)

    monkeypatch.setattr(type(workbench.states), "run", watched)
    workbench.run(counter(), until=20)
    assert standing == [True] * 20


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Return a function that fills the disk from the n-th checkpoint on."""

    def fill(after: int) -> None:
        replace, left = os.replace, iter(range(after))

        def refuse(source: Any, target: Any) -> None:
            if str(target).endswith(".safetensors") and next(left, None) is None:
                raise OSError(28, "No space left on device")
            replace(source, target)

        monkeypatch.setattr(os, "replace", refuse)

    yield fill


@pytest.mark.parametrize("written", [0, 2, 3])
def test_a_full_disk_fails_the_trial_and_nothing_is_reported_that_is_not_saved(
    workbench: Workbench, full_disk: Callable[[int], None], written: int
) -> None:
    full_disk(written)
    assert workbench.run(counter()) == ("ended", "failed")
    assert [epoch for epoch, _ in workbench.reported()] == list(range(1, written + 1))
    assert "disk is full: cannot write" in workbench.reason()
    assert not list(workbench.folder.rglob(".tmp-*"))


def test_nothing_is_reported_after_an_epoch_that_could_not_be_saved(
    workbench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the epochs behind it wait already, and the disk has room for them."""
    write = checkpoints.write
    all_wait = threading.Event()

    def refuse_the_second(path: str, data: bytes, *, sync: bool) -> None:
        if "epoch=002" in path:
            assert all_wait.wait(20)
            raise CheckpointError("disk is full")
        write(path, data, sync=sync)

    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            trial.report(acc=0.5)
            if epoch == 3:
                all_wait.set()

    monkeypatch.setattr("scattershot_common.local_files.write", refuse_the_second)
    assert workbench.run(train) == ("ended", "failed")
    assert workbench.reported() == [(1, {"acc": 0.5})]
    assert workbench.reason() == "disk is full"


def test_a_state_that_the_format_does_not_know_fails_the_trial(workbench: Workbench) -> None:
    def train(trial: Any) -> None:
        for _ in trial.epochs(model=nn.Linear(1, 1, dtype=torch.complex128)):
            trial.report(acc=0.5)

    assert workbench.run(train) == ("ended", "failed")
    assert "cannot hold a tensor of torch.complex128 (at model/weight)" in workbench.reason()
    assert workbench.reported() == []
    assert workbench.run(counter(), 8) == ("ended", "complete"), "the worker goes on"


def test_training_does_not_wait_for_the_disk(workbench: Workbench) -> None:
    disk = threading.Event()
    write = checkpoints.write

    def slow(*args: Any, **kwargs: Any) -> None:
        assert disk.wait(20)
        write(*args, **kwargs)

    def train(trial: Any) -> None:
        for epoch in trial.epochs(model=nn.Linear(1, 1)):
            if epoch == 4:
                assert workbench.reported() == []
                disk.set()
            trial.report(acc=0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scattershot_common.local_files.write", slow)
        assert workbench.run(train) == ("ended", "complete")
    assert len(workbench.reported()) == 4


def test_a_stop_outside_of_a_run_is_what_train_functions_see(workbench: Workbench) -> None:
    workbench.signals.error = CheckpointError("disk is full")
    workbench.signals.set(StopReason.KILL)
    with pytest.raises(CheckpointError):
        workbench.signals.check()
    workbench.signals.error = None
    workbench.signals.set(StopReason.DRAIN)
    with pytest.raises(TrialStopped) as stopped:
        workbench.signals.check()
    assert stopped.value.reason is StopReason.KILL, "the first reason stays"
