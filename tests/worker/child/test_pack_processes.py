"""A real worker that trains lanes, killed and stopped in every way."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.study_info import publish
from support.real_worker import RealStudy, RealWorker
from support.waiting import eventually

TASKS = '''
import itertools
import os
import time

from scattershot_worker.tasks.digits import Digits


class Slow(Digits):
    """Digits, a little slower for every lane, so that it can be struck in time."""

    def metrics(self, outputs, targets):
        time.sleep(0.02)
        return {"acc": super().metrics(outputs, targets)["accuracy"], "pid": os.getpid()}


CALLS = itertools.count()


class Stuck(Digits):
    """Hangs in an early epoch of the first process that comes there."""

    def metrics(self, outputs, targets):
        calls = next(CALLS)  # not kept on the task: what changes is trained alone
        mark = os.path.join(os.path.dirname(__file__), "hung")
        if calls > 16 and not os.path.exists(mark):
            open(mark, "w").close()
            time.sleep(600)
        return {"acc": super().metrics(outputs, targets)["accuracy"]}
'''
LANES = range(4)
EPOCHS = 30


@pytest.fixture(scope="module")
def worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorker]:
    """A worker for the tests after which it still runs."""
    worker = RealWorker(redis_url, tmp_path_factory.mktemp("worker"), TASKS)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def own_worker(redis_url: str, tmp_path: Path) -> Iterator[RealWorker]:
    """A worker of this test alone."""
    worker = RealWorker(redis_url, tmp_path, TASKS)
    worker.start()
    yield worker
    worker.stop()


def begin(worker: RealWorker, task: str = "Slow", **settings: float) -> RealStudy:
    """Have four trials train as lanes of one worker."""
    study = RealStudy(worker, task, **settings)
    publish(worker.connection, replace(study.info, metric="val_acc"))
    for trial in LANES:
        send(study, trial)
    return study


def send(study: RealStudy, trial: int) -> None:
    study.send(trial, EPOCHS, lr=0.01 * (trial + 1), hidden=16, batch_size=64, dropout=0.2)


def all_running(study: RealStudy, epoch: int = 2) -> None:
    for trial in LANES:
        study.until_epoch(trial, epoch)
    assert [study.state(trial) for trial in LANES] == ["running"] * 4


def all_end(study: RealStudy) -> None:
    for trial in LANES:
        study.until(trial, "complete")
        assert study.epochs(trial) == list(range(1, EPOCHS + 1)), "none twice, none left out"


def put_back(study: RealStudy) -> None:
    """Queue what waits, as the study's master would find that it must."""
    for trial in LANES:
        if study.state(trial) == "waiting":
            send(study, trial)


def test_a_process_that_is_killed_takes_no_lane_with_it_for_long(worker: RealWorker) -> None:
    study = begin(worker)
    all_running(study)
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    all_end(study)
    for trial in LANES:
        (lost,) = (event for event in study.events(trial) if event.kind == "waiting")
        assert (lost.why, lost.attempt) == ("crash", 1)
        assert "SIGKILL" in lost.reason
    pids = Counter(
        int(event.metrics["val_pid"])
        for trial in LANES
        for event in study.events(trial)
        if event.kind == "report"
    )
    assert len(pids) == 2, "its next process trains them all"


def test_a_lane_is_killed_by_a_message_and_the_others_go_on(worker: RealWorker) -> None:
    study = begin(worker)
    all_running(study)
    (child,) = worker.children()
    begun = time.monotonic()
    study.stop(2, StopReason.KILL, "poor")
    study.until(2, "killed")
    assert time.monotonic() - begun < 5
    assert study.last(2).reason == "poor"
    for trial in (0, 1, 3):
        study.until(trial, "complete")
    assert worker.children() == [child]


@pytest.mark.slow
def test_a_worker_that_is_to_end_gives_every_lane_back_uncounted(own_worker: RealWorker) -> None:
    study = begin(own_worker)
    all_running(study)
    own_worker.process.send_signal(signal.SIGTERM)
    assert own_worker.process.wait(30) == 0
    for trial in LANES:
        assert study.state(trial) == "waiting"
        assert study.last(trial).why == "drain"
        key = study.states.keys.trial(trial)
        assert own_worker.connection.hget(key, "failures") == "0"
    own_worker.start()
    all_end(study)


@pytest.mark.slow
def test_a_supervisor_that_is_killed_leaves_its_lanes_to_their_leases(
    own_worker: RealWorker,
) -> None:
    study = begin(own_worker)
    all_running(study)
    (child,) = own_worker.children()
    os.kill(own_worker.process.pid, signal.SIGKILL)
    own_worker.process.wait()
    eventually(lambda: not os.path.exists(f"/proc/{child}") or _zombie(child), 5)
    eventually(lambda: len(study.states.expired()) == 4, 30)
    for trial, attempt in study.states.expired():
        assert study.states.requeue(trial, attempt, Outcome.LOST, max_failures=3) == "waiting"
    put_back(study)
    own_worker.start()
    all_end(study)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z")


@pytest.mark.slow
def test_a_lane_that_hangs_is_ended_and_all_go_on(worker: RealWorker) -> None:
    study = begin(worker, "Stuck", stall=5.0)
    all_end(study)
    for trial in LANES:
        reasons = [event.reason for event in study.events(trial) if event.why == "crash"]
        assert reasons == ["no progress for 5 s"]


@pytest.mark.slow
def test_a_study_that_stops_has_every_lane_wait(worker: RealWorker) -> None:
    study = begin(worker)
    all_running(study)
    for trial in LANES:
        study.stop(trial, StopReason.HOLD)
    for trial in LANES:
        study.until(trial, "waiting")
    assert worker.process.poll() is None
    put_back(study)
    all_end(study)
