"""What a worker's processes leave behind is ended with them, and nothing else is."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.real_worker import RealStudy, RealWorker
from support.waiting import alive, eventually

TASKS = """
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from torch import nn


def leaves(trial):
    daemon = multiprocessing.Process(target=time.sleep, args=(600,), daemon=True)
    daemon.start()
    program = subprocess.Popen(["sleep", "600"])
    session = subprocess.Popen(["sleep", "600"], start_new_session=True)
    ignores = ["sh", "-c", "trap '' TERM; echo begun; sleep 600; sleep 600"]
    stubborn = subprocess.Popen(ignores, stdout=subprocess.PIPE)
    stubborn.stdout.readline()
    script = "sleep 600 >/dev/null & echo $!"
    orphan = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True).stdout
    pids = [daemon.pid, program.pid, session.pid, stubborn.pid, int(orphan)]
    Path(sys.path[0], f"{trial.folder.name}-{trial.number}").write_text(json.dumps(pids))
    for epoch in trial.epochs(model=nn.Linear(1, 1)):
        trial.report(acc=0.5, pid=os.getpid())


def dies(trial):
    leaves(trial) if trial.number == 0 else None
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(code: str) -> Any:
    """Run code in a process of its own, where it may adopt; return the JSON that it prints."""
    head = """
        import json, os, subprocess, time
        from scattershot_worker.supervisor.descendants import (
            adopt_orphans, end_descendants, reap_orphans
        )
        adopt_orphans()
        def orphan(seconds):
            script = f"sleep {seconds} >/dev/null & echo $!"
            return int(subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE).stdout)
    """
    source = textwrap.dedent(head) + textwrap.dedent(code)
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")
def test_descendants_are_ended_but_those_to_keep_and_unrelated_ones() -> None:
    unrelated = subprocess.Popen(["sleep", "60"])
    code = """
        kept = subprocess.Popen(["sh", "-c", "sleep 30 & echo $!; wait"], stdout=subprocess.PIPE)
        pids = {"kept": kept.pid, "below": int(kept.stdout.readline())}
        pids |= {"orphan": orphan(40), "child": subprocess.Popen(["sleep", "40"]).pid}
        end_descendants([kept.pid])
        def alive(pid):
            return os.path.exists(f"/proc/{pid}") and "Z" not in open(f"/proc/{pid}/stat").read()
        print(json.dumps({name: alive(pid) for name, pid in pids.items()}))
        end_descendants()
    """
    try:
        assert run(code) == {"kept": True, "below": True, "orphan": False, "child": False}
        assert unrelated.poll() is None
    finally:
        unrelated.kill()
        unrelated.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")
def test_orphans_that_have_ended_are_reaped_and_own_processes_keep_their_status() -> None:
    code = """
        own = subprocess.Popen(["sh", "-c", "sleep 0.3; exit 7"])
        first, second = orphan(0), orphan(0.1)
        end = time.monotonic() + 20
        while any(os.path.exists(f"/proc/{pid}") for pid in (first, second)):
            reap_orphans([own.pid])
            assert time.monotonic() < end
        status = own.wait()
        reap_orphans([own.pid])
        print(json.dumps(status))
    """
    assert run(code) == 7


@pytest.fixture(scope="module")
def worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorker]:
    worker = RealWorker(redis_url, tmp_path_factory.mktemp("worker"), TASKS)
    worker.start()
    yield worker
    worker.stop()


def left_by(study: RealStudy, trial: int = 0) -> list[int]:
    path = Path(study.worker.root, f"{study.name}-{trial}")
    eventually(lambda: path.exists() and path.read_text())
    pids: list[int] = json.loads(path.read_text())
    return pids


def none_alive(pids: list[int]) -> bool:
    return not any(map(alive, pids))


def test_what_a_child_that_dies_has_started_is_ended(worker: RealWorker) -> None:
    study = RealStudy(worker, "dies", max_failures=1)
    study.send(0)
    pids = left_by(study)
    study.until(0, "failed")
    eventually(lambda: none_alive(pids), 20)


@pytest.mark.slow
def test_what_a_trial_has_started_lives_as_long_as_its_process(worker: RealWorker) -> None:
    study = RealStudy(worker, "leaves", recycle=1)
    study.send(0)
    study.until(0, "complete")
    pids = left_by(study)
    assert all(map(alive, pids))
    trials = itertools.count(1)

    def ended_after_another_trial() -> bool:
        trial = next(trials)
        study.send(trial)
        study.until(trial, "complete")
        time.sleep(0.3)  # the next process has to import torch meanwhile
        return none_alive(pids)

    eventually(ended_after_another_trial)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("flags", [(), ("--slots", "2")], ids=["alone", "slots"])
def test_nothing_is_left_when_a_worker_has_ended(
    redis_url: str, tmp_path: Path, number: signal.Signals, flags: tuple[str, ...]
) -> None:
    worker = RealWorker(redis_url, tmp_path / "worker", TASKS, *flags)
    worker.start()
    try:
        study = RealStudy(worker, "leaves")
        study.send(0)
        study.until(0, "complete")
        pids = left_by(study)
        worker.process.send_signal(number)
        worker.process.wait(30)
        assert none_alive(pids)
    finally:
        worker.stop()


@pytest.mark.slow
def test_a_slot_that_is_killed_leaves_nothing(redis_url: str, tmp_path: Path) -> None:
    worker = RealWorker(redis_url, tmp_path / "worker", TASKS, "--slots", "2")
    worker.start()
    try:
        study = RealStudy(worker, "leaves")
        study.send(0)
        study.until(0, "complete")
        child = study.pids(0)[0]
        supervisor = int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(supervisor, signal.SIGKILL)
        pids = left_by(study)
        eventually(lambda: none_alive(pids), 20)
    finally:
        worker.stop()
