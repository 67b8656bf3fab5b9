"""A trial that hangs, in every way it can, and trials that only look as if they did."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from scattershot_common.bus.outcome import StopReason
from scattershot_common.study.settings import Worker
from support.real_worker import RealStudy, RealWorker
from support.waiting import alive, eventually

TASKS = '''
import os
import sys
import time
from pathlib import Path

from torch import nn


def _train(trial, at, what):
    """Do `what` in the middle of epoch `at`."""
    for epoch in trial.epochs(model=nn.Linear(1, 1)):
        if epoch == at:
            what()
        trial.report(acc=epoch / 100, pid=os.getpid())


def _first(trial):
    """Return whether nobody asked this before for the trial."""
    mark = Path(sys.path[0], f"{trial.folder.name}-{trial.number}")
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def steady(trial):
    _train(trial, 0, None)


def sleeps(trial):
    _train(trial, 2, lambda: time.sleep(600))


def sleeps_once(trial):
    _train(trial, 3, lambda: _first(trial) and time.sleep(600))


def in_c_code(trial):
    def hold_the_lock():
        sum(range(10**12))
    _train(trial, 2, hold_the_lock)


def with_a_child(trial):
    def fork():
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        Path(sys.path[0], "forked").write_text(str(pid))
        time.sleep(600)
    _train(trial, 2, fork)


def slow_epoch(trial):
    """Epochs much longer than the limit, of batches that are not."""
    _train(trial, 2, lambda: [time.sleep(0.05) for _ in trial.batches(range(90))])


def slow_reports(trial):
    """No batches at all, but reports."""
    for epoch in trial.epochs():
        time.sleep(1.0)
        trial.report(acc=0.5)
'''


@pytest.fixture(scope="module")
def worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorker]:
    worker = RealWorker(redis_url, tmp_path_factory.mktemp("worker"), TASKS)
    worker.start()
    yield worker
    worker.stop()


def ready(worker: RealWorker) -> int:
    """Wait until the warm child has imported torch; return its pid."""
    study = RealStudy(worker, "steady")
    study.send(0)
    study.until(0, "complete")
    return int(study.events(0)[-2].metrics["pid"])


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sleeps", "in_c_code"])
def test_a_trial_that_hangs_is_ended_and_fails_after_its_attempts(
    worker: RealWorker, task: str
) -> None:
    child = ready(worker)
    study = RealStudy(worker, task, stall=1.5, max_failures=2)
    study.send(3)
    study.until(3, "failed")
    ends = [event for event in study.events(3) if event.kind in ("waiting", "failed")]
    assert [(event.kind, event.why, event.attempt) for event in ends] == [
        ("waiting", "crash", 1),
        ("failed", "crash", 2),
    ]
    assert {event.reason for event in ends} == {"no progress for 1.5 s"}
    assert not alive(child)
    ready(worker)


def test_a_trial_that_hung_once_goes_on_from_its_checkpoint(worker: RealWorker) -> None:
    ready(worker)
    study = RealStudy(worker, "sleeps_once", stall=1.5)
    study.send(3)
    study.until(3, "complete")
    assert study.epochs(3) == [1, 2, 3, 4]
    assert [event.attempt for event in study.events(3) if event.kind == "started"] == [1, 2]


@pytest.mark.slow
def test_the_log_says_where_a_trial_hung(worker: RealWorker) -> None:
    ready(worker)
    study = RealStudy(worker, "in_c_code", stall=1.5, max_failures=1)
    study.send(3)
    study.until(3, "failed")
    log = worker.log.read_text().rpartition("hangs, its process is ended; it was here:")[2]
    line = TASKS.splitlines().index("        sum(range(10**12))") + 1
    assert f'their_tasks.py", line {line} in hold_the_lock' in log


def test_what_a_hung_trial_has_started_is_ended_with_it(worker: RealWorker) -> None:
    ready(worker)
    study = RealStudy(worker, "with_a_child", stall=1.5, max_failures=1)
    study.send(3)
    study.until(3, "failed")
    forked = int((worker.root / "forked").read_text())
    eventually(lambda: not alive(forked), 5)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["slow_epoch", "slow_reports"])
def test_long_epochs_are_no_hang_as_long_as_batches_or_reports_come(
    worker: RealWorker, task: str
) -> None:
    ready(worker)
    study = RealStudy(worker, task, stall=3.0, max_failures=1)
    study.send(3)
    study.until(3, "complete")
    assert study.last(3).attempt == 1


@pytest.mark.slow
def test_without_a_limit_a_trial_may_take_as_long_as_it_likes(worker: RealWorker) -> None:
    ready(worker)
    study = RealStudy(worker, "sleeps", kill_grace=0.1)
    assert study.info.stall == Worker().stall == 0
    study.send(3)
    study.until_epoch(3, 1)
    time.sleep(1.5)
    assert study.state(3) == "running"
    study.states.signal(3, StopReason.KILL, "enough")
    study.until(3, "killed")


@pytest.mark.slow
def test_a_worker_that_was_frozen_does_not_take_the_pause_for_a_hang(worker: RealWorker) -> None:
    """As `docker pause` or a laptop's lid do: all processes stand still, then all go on."""
    ready(worker)
    study = RealStudy(worker, "slow_epoch", stall=3.0, max_failures=1)
    study.send(3)
    study.until_epoch(3, 1)
    family = [worker.process.pid, *worker.children()]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    study.until(3, "complete")
    assert study.last(3).attempt == 1
