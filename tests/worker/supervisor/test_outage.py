"""A real worker whose Redis goes away, comes back, or forgets."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scattershot_common.bus.outcome import Outcome
from scattershot_common.bus.server import EmbeddedServer
from scattershot_common.bus.study_info import publish
from support.real_worker import RealStudy, RealWorker
from support.waiting import eventually

TASKS = """
import time

from torch import nn


def steady(trial):
    for epoch in trial.epochs(model=nn.Linear(1, 1)):
        time.sleep(trial.params.get("pause", 0.0))
        trial.report(acc=epoch / 100)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    server = EmbeddedServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def worker(server: EmbeddedServer, tmp_path: Path) -> Iterator[RealWorker]:
    worker = RealWorker(server.url, tmp_path, TASKS)
    worker.start()
    yield worker
    worker.stop()


def kill(server: EmbeddedServer) -> None:
    process = server._process
    assert process is not None
    process.kill()
    process.wait()


def said(worker: RealWorker, words: str) -> int:
    return worker.log.read_text().count(words)


def test_a_worker_waits_for_redis_and_its_trial_goes_on_meanwhile(
    server: EmbeddedServer, worker: RealWorker
) -> None:
    study = RealStudy(worker, "steady")
    study.send(0, until=6, pause=0.2)
    study.until_epoch(0, 2)
    kill(server)
    # the supervisor has beaten, and the trial has come to its end, with nobody there to hear it
    eventually(lambda: said(worker, "does not answer") >= 2)
    server.tend()
    study.until(0, "complete")
    study.send(1)
    study.until(1, "complete")
    assert study.epochs(0) == [1, 2, 3, 4, 5, 6]
    assert study.last(0).attempt == 1
    assert worker.process.poll() is None and "Traceback" not in worker.log.read_text()


def idle(worker: RealWorker) -> bool:
    """Return whether RQ knows the worker as one that waits for a job."""
    # beside the worker's hash there may be one of what it executes
    (key,) = {str(key).removesuffix(":executions") for key in worker.connection.keys("rq:worker:*")}
    return worker.connection.hget(key, "state") == "idle"


def test_an_idle_worker_waits_for_redis_too(server: EmbeddedServer, worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.send(0)
    study.until(0, "complete")
    eventually(lambda: idle(worker))
    kill(server)
    eventually(lambda: said(worker, "could not connect to Redis") >= 2)
    server.tend()
    eventually(lambda: worker.connection.ping())
    study.send(1)
    study.until(1, "complete")
    assert worker.process.poll() is None and "Traceback" not in worker.log.read_text()


def test_a_worker_goes_on_when_redis_has_forgotten_its_trial(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.send(0, until=30, pause=0.1)
    study.until_epoch(0, 2)
    worker.connection.flushall()
    publish(worker.connection, study.info)
    study.send(1)
    study.until(1, "complete")
    assert study.epochs(0) == []
    assert worker.process.poll() is None and "Traceback" not in worker.log.read_text()


def test_a_worker_waits_for_a_redis_that_takes_no_orders(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.send(0)
    study.until(0, "complete")
    worker.connection.config_set("maxmemory", 1)
    eventually(lambda: said(worker, "does not answer") >= 1)
    worker.connection.config_set("maxmemory", 0)
    study.send(1)
    study.until(1, "complete")
    assert worker.process.poll() is None and "Traceback" not in worker.log.read_text()


def test_a_worker_that_was_frozen_past_its_lease_changes_nothing(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.send(0, until=30, pause=0.1)
    study.until_epoch(0, 2)
    frozen = [worker.process.pid, *worker.children()]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    study.states.connection.zadd(study.states.keys.running, {"0": 0})  # its lease ran out
    assert study.states.expired() == [(0, 1)]
    study.states.requeue(0, 1, Outcome.LOST, max_failures=3)
    assert study.states.claim(0, 2, "another").granted
    before = study.events(0)
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    study.send(1)
    study.until(1, "complete")
    assert study.events(0) == before
    assert study.state(0) == "running"
