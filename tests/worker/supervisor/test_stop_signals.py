"""Signals that ask a worker for a clean stop: its trials are given back, however many come."""

import signal
from pathlib import Path

import pytest

from support.real_worker import RealStudy, RealWorker
from support.waiting import alive, eventually

TASKS = """
import os
import time
from torch import nn


def slow(trial):
    for epoch in trial.epochs(model=nn.Linear(1, 1)):
        for _ in trial.batches(range(10)):
            time.sleep(0.02)
        trial.report(acc=epoch / 100, pid=os.getpid())
"""
CAME = [
    ("SIGUSR1", "SIGUSR1", "SIGTERM"),
    ("SIGHUP", "SIGHUP"),
    ("SIGUSR2", "SIGINT"),
    ("SIGTERM", "SIGUSR1"),
]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--slots", "1", "--with-parent")], ids=["alone", "slots"])
@pytest.mark.parametrize("came", CAME, ids="-".join)
def test_a_worker_that_is_warned_gives_its_trials_back(
    redis_url: str, tmp_path: Path, came: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    worker = RealWorker(redis_url, tmp_path / "worker", TASKS, *flags)
    worker.start()
    try:
        study = RealStudy(worker, "slow")
        study.send(0, until=1000)
        study.until_epoch(0, 2)
        for name in came:
            worker.process.send_signal(getattr(signal, name))
        assert worker.process.wait(30) == 0
        assert not alive(study.pids(0)[-1])
        last = eventually(lambda: study.last(0))
        assert (last.kind, last.why) == ("waiting", "drain")
    finally:
        worker.stop()
