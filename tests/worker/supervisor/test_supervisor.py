"""A real worker, its supervisor and child as processes, driven the way a master drives them."""

import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
from rq import Callback
from rq.command import send_command, send_kill_horse_command, send_shutdown_command
from rq.job import Job

from scattershot_common.bus.connection import URL_VARIABLE
from scattershot_common.bus.keys import job_id
from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.queue import RUN_TRIAL
from scattershot_common.bus.trial_spec import QueuedAttempt, TrialSpec
from scattershot_common.bus.workers import living_workers
from support.checkpoints import list_checkpoints, trial_folder
from support.real_worker import RealStudy, RealWorker
from support.waiting import alive, eventually

TASKS = '''
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from torch import nn


def _first(trial):
    """Return whether nobody asked this before for the trial."""
    mark = Path(sys.path[0], f"{trial.folder.name}-{trial.number}")
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _train(trial, at, what):
    """Do `what` in the middle of epoch `at`."""
    began = 0
    for epoch in trial.epochs(model=nn.Linear(1, 1)):
        began = began or epoch
        if epoch == at:
            what()
        trial.report(acc=epoch / 100, pid=os.getpid(), began=began)


def _forever(trial):
    for _ in trial.batches(iter(int, 1)):
        time.sleep(0.001)


def steady(trial):
    _train(trial, 0, None)


def endless(trial):
    _train(trial, 3, lambda: _forever(trial))


def endless_once(trial):
    _train(trial, 3, lambda: _first(trial) and _forever(trial))


def deaf(trial):
    while trial.params:
        time.sleep(0.001)
    _train(trial, 3, lambda: time.sleep(600))


def stuck(trial):
    # keeps the interpreter's lock: no other thread of the process can do anything
    _train(trial, 30, lambda: ctypes.PyDLL(None).sleep(600))


def bug(trial):
    _train(trial, 2, lambda: 1 / 0)


def hungry(trial):
    def eat():
        raise MemoryError("no 99 GiB left")
    _train(trial, 2, eat)


def killed_once(trial):
    _train(trial, 30, lambda: _first(trial) and os.kill(os.getpid(), signal.SIGKILL))


def exits_once(trial):
    _train(trial, 30, lambda: _first(trial) and os._exit(7))


def forks_and_dies_once(trial):
    def fork():
        if _first(trial):
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
                os._exit(0)
            Path(sys.path[0], "forked").write_text(str(pid))
            os.kill(os.getpid(), signal.SIGKILL)
    _train(trial, 30, fork)
'''


@pytest.fixture(scope="module")
def worker(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealWorker]:
    """One worker for most of the tests: its child needs seconds to import torch."""
    worker = RealWorker(redis_url, tmp_path_factory.mktemp("worker"), TASKS)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture
def own_worker(redis_url: str, tmp_path: Path) -> Iterator[RealWorker]:
    """A worker of this test alone, not started yet."""
    worker = RealWorker(redis_url, tmp_path, TASKS)
    yield worker
    worker.stop()


def still_works(worker: RealWorker) -> int:
    """Let a trial run to its end; return the child's pid."""
    study = RealStudy(worker, "steady")
    study.send(0)
    study.until(0, "complete")
    assert worker.process.poll() is None
    return study.pids(0)[-1]


# ---- no torch


@pytest.mark.parametrize("slots", ["1", "2"])
def test_a_worker_whose_torch_cannot_be_imported_takes_no_more_trials_and_ends_saying_why(
    redis_url: str, tmp_path: Path, slots: str
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise OSError('libtorch.so:\\n no such file')\n")
    environment = {"PYTHONPATH": str(broken)}
    worker = RealWorker(redis_url, tmp_path, TASKS, "--slots", slots, environment=environment)
    study = RealStudy(worker, "steady")
    for trial in range(5):
        study.send(trial)
    worker.start()
    try:
        assert worker.process.wait(30) == 2
    finally:
        worker.stop()
    lines = [
        line for line in worker.log.read_text().splitlines() if line.startswith("scattershot: ")
    ]
    why = "torch cannot be imported: OSError: libtorch.so: no such file"
    assert set(lines) == {f"scattershot: this worker cannot train, {why}"}
    assert "Traceback" not in worker.log.read_text()
    assert [study.state(trial) for trial in range(5)] == ["waiting"] * 5
    assert len(worker.queue.waiting()) >= 5 - int(slots), "no worker took a second one"


def test_a_worker_without_a_trial_notices_too_that_it_could_train_none(
    redis_url: str, tmp_path: Path
) -> None:
    worker = RealWorker(redis_url, tmp_path, TASKS, "--device", "cuda:99")
    worker.start()
    try:
        assert worker.process.wait(60) == 2
    finally:
        worker.stop()
    assert "cannot train, the device cuda:99 cannot be used: " in worker.log.read_text()


# ---- a trial's way


def test_a_trial_runs_to_its_end(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.send(3)
    study.until(3, "complete")
    assert [event.kind for event in study.events(3)] == ["started", *["report"] * 4, "complete"]
    assert study.events(3)[0].worker == worker.name
    assert study.last(3).reason == ""
    names = [path.name for path in list_checkpoints(study.folder, 3)]
    assert study.events(3)[-2].checkpoint == names[-1]


def test_a_finished_trial_leaves_nothing_in_rq(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.send(3)
    study.until(3, "complete")
    registry = worker.queue.rq.started_job_registry
    eventually(lambda: registry.get_job_count(cleanup=False) == 0)
    assert worker.queue.waiting() == []
    assert worker.queue.rq.connection.keys(f"rq:*{job_id(study.name, 3, 1)}*") == []


def test_a_trial_pauses_at_its_rung_and_goes_on_when_it_may(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.send(3, until=2, epochs=4)
    study.until(3, "paused")
    assert study.epochs(3) == [1, 2]
    study.send(3, until=4)
    study.until(3, "complete")
    assert study.epochs(3) == [1, 2, 3, 4]
    assert [event.attempt for event in study.events(3) if event.kind == "started"] == [1, 2]


def test_trials_are_trained_by_one_warm_process(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    for trial in range(5):
        study.send(trial)
    study.until(4, "complete")
    assert {pid for trial in range(5) for pid in study.pids(trial)} == set(worker.children())


def test_only_the_child_has_torch(worker: RealWorker) -> None:
    child = still_works(worker)

    def libraries(pid: int) -> str:
        return Path(f"/proc/{pid}/maps").read_text()

    assert "libtorch" in libraries(child)
    assert "libtorch" not in libraries(worker.process.pid)


def test_neither_process_shows_the_password(worker: RealWorker) -> None:
    password = worker.url.partition("@")[0].rpartition(":")[2]
    for pid in [worker.process.pid, *worker.children()]:
        assert password not in " ".join(psutil.Process(pid).cmdline())
    assert password not in worker.log.read_text()


# ---- kill and hold


def test_a_kill_in_the_middle_of_an_epoch_spares_the_process(worker: RealWorker) -> None:
    study = RealStudy(worker, "endless")
    study.send(3)
    study.send(4, until=2)
    study.until_epoch(3, 2)
    study.stop(3, StopReason.KILL, "too poor")
    study.until(3, "killed")
    assert study.last(3).reason == "too poor"
    assert study.epochs(3) == [1, 2]
    study.until(4, "complete")
    assert study.pids(4)[0] == study.pids(3)[0]


def test_a_kill_whose_message_is_lost_is_heard_with_the_next_beat(worker: RealWorker) -> None:
    study = RealStudy(worker, "endless")
    study.send(3)
    study.until_epoch(3, 2)
    study.states.signal(3, StopReason.KILL, "too poor")
    study.until(3, "killed")
    assert study.last(3).reason == "too poor"


def test_a_trial_that_does_not_hear_its_kill_is_ended_with_its_process(worker: RealWorker) -> None:
    study = RealStudy(worker, "deaf", kill_grace=0.2)
    study.send(3)
    study.until_epoch(3, 2)
    child = study.pids(3)[0]
    study.stop(3, StopReason.KILL, "too poor")
    study.until(3, "killed")
    assert study.last(3).reason == "too poor"
    assert not alive(child)
    assert still_works(worker) != child


def test_a_held_trial_goes_back_but_not_on_the_queue(worker: RealWorker) -> None:
    study = RealStudy(worker, "endless_once")
    study.send(3)
    study.until_epoch(3, 2)
    study.stop(3, StopReason.HOLD)
    study.until(3, "waiting")
    assert (study.last(3).why, study.last(3).attempt) == ("hold", 1)
    still_works(worker)
    assert study.state(3) == "waiting"
    study.send(3)
    study.until(3, "complete")
    assert study.epochs(3) == [1, 2, 3, 4]


def test_a_stop_for_another_attempt_is_not_meant_for_this_one(worker: RealWorker) -> None:
    study = RealStudy(worker, "endless")
    study.send(3)
    study.until_epoch(3, 2)
    for key in ([study.name, 3, 2], [study.name, 4, 1], ["other", 3, 1], None, "3"):
        send_command(worker.connection, worker.name, "scattershot-stop", stop="kill", attempt=key)
    study.stop(3, StopReason.HOLD)
    study.until(3, "waiting")
    assert study.last(3).why == "hold"


def test_commands_of_rq_itself_do_not_get_past_the_states(worker: RealWorker) -> None:
    study = RealStudy(worker, "endless")
    study.send(3)
    study.until_epoch(3, 2)
    send_kill_horse_command(worker.connection, worker.name)
    send_shutdown_command(worker.connection, worker.name)
    study.stop(3, StopReason.KILL)
    study.until(3, "killed")
    assert still_works(worker) == study.pids(3)[0]


# ---- errors and crashes


def test_an_error_of_the_users_code_fails_the_trial_with_its_place(worker: RealWorker) -> None:
    study = RealStudy(worker, "bug")
    study.send(3)
    study.until(3, "failed")
    line = TASKS.splitlines().index("    _train(trial, 2, lambda: 1 / 0)") + 1
    assert study.last(3).reason == f"ZeroDivisionError: division by zero (their_tasks.py:{line})"
    text = (trial_folder(study.folder, 3) / "error.txt").read_text()
    assert "Traceback (most recent call last):" in text and "_train(trial, 2" in text
    assert still_works(worker)


def test_a_task_that_cannot_be_imported_fails_the_trial_with_the_cause(worker: RealWorker) -> None:
    study = RealStudy(worker, "no_such_function")
    study.send(3)
    study.until(3, "failed")
    assert "has no attribute 'no_such_function'" in study.last(3).reason


def test_out_of_memory_is_tried_again_and_then_told(worker: RealWorker) -> None:
    study = RealStudy(worker, "hungry", max_failures=3)
    study.send(3)
    study.until(3, "failed")
    ends = [event for event in study.events(3) if event.kind in ("waiting", "failed")]
    assert [event.kind for event in ends] == ["waiting", "waiting", "failed"]
    assert [event.attempt for event in ends] == [1, 2, 3]
    assert {event.reason for event in ends} == {"out of memory: no 99 GiB left"}
    assert study.epochs(3) == [1]


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("killed_once", "its process was ended by SIGKILL (out of memory?)"),
        ("exits_once", "its process exited with status 7"),
        ("forks_and_dies_once", "its process was ended by SIGKILL (out of memory?)"),
    ],
)
def test_a_trial_whose_process_died_goes_on_from_its_checkpoint(
    worker: RealWorker, task: str, reason: str
) -> None:
    study = RealStudy(worker, task)
    study.send(3, until=40)
    study.until(3, "complete")
    lost = next(event for event in study.events(3) if event.kind == "waiting")
    assert (lost.why, lost.attempt, lost.reason) == ("crash", 1, reason)
    assert study.epochs(3) == list(range(1, 41)), "no epoch twice, none left out"
    forked = worker.root / "forked"
    if forked.exists():
        eventually(lambda: not alive(int(forked.read_text())), 10)  # it is ended as well
        forked.unlink()
    reports = [event for event in study.events(3) if event.kind == "report"]
    first = [event for event in reports if event.attempt == 1]
    assert len(first) > 10, "only a few epochs may wait for the disk"
    assert {event.metrics["began"] for event in first} == {1}
    assert {event.metrics["began"] for event in reports[len(first) :]} == {len(first) + 1}
    assert len(set(study.pids(3))) == 2


def test_a_worn_child_is_replaced_without_making_a_trial_wait(worker: RealWorker) -> None:
    still_works(worker)
    study = RealStudy(worker, "steady", recycle=1)
    for trial in (0, 1):
        study.send(trial)
    study.until(1, "complete")
    old = study.pids(0)[0]
    assert study.pids(1)[0] == old, "the old one works on while the new one imports torch"
    assert next_child(study, old) != old
    eventually(lambda: not alive(old))


def test_a_successor_that_dies_before_its_time_is_replaced_too(worker: RealWorker) -> None:
    old = still_works(worker)
    study = RealStudy(worker, "steady", recycle=1)
    study.send(0)
    (successor,) = eventually(lambda: set(worker.children()) - {old})
    os.kill(successor, signal.SIGKILL)
    study.until(0, "complete")
    assert next_child(study, old) not in (old, successor)
    assert {event.attempt for trial in range(9) for event in study.events(trial)} == {1}


def next_child(study: RealStudy, old: int) -> int:
    """Send trials until another process than `old` trains one; return its pid."""

    def look() -> int | None:
        trial = next(trials)
        study.send(trial)
        study.until(trial, "complete")
        if (pid := study.pids(trial)[0]) != old:
            return pid
        time.sleep(0.2)  # the new one needs the processor to import torch
        return None

    trials = count(5)
    found = eventually(look)
    assert found is not None
    return found


def test_a_job_of_an_earlier_version_is_run(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.states.submit(3, 4)
    attempt = QueuedAttempt.signed(study.spec(3, 4), 1, "")
    name = "scattershot_worker.job.run_trial"
    worker.queue.rq.enqueue(name, args=attempt.arguments, job_id=attempt.job)
    study.until(3, "complete")


# ---- what is no trial


def undecodable(worker: RealWorker, data: bytes) -> None:
    """Put a job on the queue as a stranger with access to Redis could."""
    key, now = "stranger", "2020-01-01T00:00:00.000000Z"
    fields: dict[Any, Any] = {
        "data": zlib.compress(data),
        "created_at": now,
        "origin": "scattershot",
    }
    worker.queue.rq.connection.hset(f"rq:job:{key}", mapping=fields)
    worker.queue.rq.connection.rpush(worker.queue.rq.key, key)


STRANGERS: dict[str, Callable[[RealWorker, Path], object]] = {
    "a function by name": lambda w, mark: w.queue.rq.enqueue("os.system", f"touch {mark}"),
    "a pickle": lambda w, mark: undecodable(
        w, b"cposix\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    ),
    "nonsense": lambda w, mark: undecodable(w, b"\x00\xff"),
    "json of another shape": lambda w, mark: undecodable(w, b'{"a": 1}'),
    "our function without a trial": lambda w, mark: w.queue.rq.enqueue(RUN_TRIAL),
    "our function with nonsense": lambda w, mark: w.queue.rq.enqueue(RUN_TRIAL, "x", 1, ""),
    "our function with an odd attempt": lambda w, mark: w.queue.rq.enqueue(
        RUN_TRIAL, TrialSpec("s", "u", 1, "c", {}, 1, 1).to_json(), None, ""
    ),
    "a trial of no study": lambda w, mark: w.queue.put(
        [(TrialSpec("nowhere", "u", 1, "c", {}, 1, 1), 1)]
    ),
    "a callback": lambda w, mark: w.queue.rq.enqueue(
        RUN_TRIAL, on_failure=Callback("os.system"), on_success=Callback("os.system")
    ),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_job_that_is_no_trial_is_refused_and_the_worker_goes_on(
    worker: RealWorker, tmp_path: Path, stranger: str
) -> None:
    mark = tmp_path / "mark"
    STRANGERS[stranger](worker, mark)
    still_works(worker)
    assert worker.queue.waiting() == []
    assert not mark.exists()


def test_a_refused_job_says_why(worker: RealWorker) -> None:
    job = worker.queue.rq.enqueue("os.system", "true")
    registry = worker.queue.rq.failed_job_registry
    eventually(lambda: job.id in registry.get_job_ids(cleanup=False))
    rq = worker.queue.rq
    job = Job.fetch(job.id, connection=rq.connection, serializer=rq.serializer)
    result = job.latest_result()
    assert result is not None
    assert result.exc_string == "a worker runs trials only, not os.system"


def test_a_trial_on_the_queue_twice_is_trained_once(worker: RealWorker) -> None:
    study = RealStudy(worker, "steady")
    study.states.submit(3, 4)
    for _ in range(2):
        worker.queue.put([(study.spec(3, 4), 1)])
    study.until(3, "complete")
    still_works(worker)
    assert study.epochs(3) == [1, 2, 3, 4]
    assert study.state(3) == "complete"


# ---- coming and going


def test_a_worker_shows_that_it_is_there(worker: RealWorker) -> None:
    (seen,) = eventually(lambda: living_workers(worker.connection))
    assert (seen.pid, seen.device) == (worker.process.pid, "cpu")
    assert seen.name in worker.log.read_text()


def test_a_worker_that_is_told_to_go_gives_its_trial_back_first_in_the_queue(
    own_worker: RealWorker,
) -> None:
    own_worker.start()
    study, other = RealStudy(own_worker, "endless_once"), RealStudy(own_worker, "steady")
    study.send(3)
    other.send(4)
    study.until_epoch(3, 2)
    children = own_worker.children()
    own_worker.process.terminate()
    assert own_worker.process.wait(60) == 0
    assert study.state(3) == "waiting"
    assert (study.last(3).kind, study.last(3).why) == ("waiting", "drain")
    assert own_worker.queue.waiting() == [
        job_id(study.name, 3, 2),
        job_id(other.name, 4, 1),
    ]
    assert not any(map(alive, children))
    assert living_workers(own_worker.connection) == []
    own_worker.start()
    other.until(4, "complete")
    assert study.state(3) == "complete"
    assert study.epochs(3) == [1, 2, 3, 4]


def test_a_worker_can_be_told_to_go_while_its_child_still_imports_torch(
    own_worker: RealWorker,
) -> None:
    study = RealStudy(own_worker, "endless", kill_grace=60)
    study.send(3)
    own_worker.start()
    eventually(lambda: own_worker.queue.taken() or study.state(3) == "running")
    own_worker.process.terminate()
    assert own_worker.process.wait(90) == 0
    assert "did not stop" not in own_worker.log.read_text(), "the child was asked, not ended"
    assert study.state(3) == "waiting"
    assert own_worker.queue.waiting() == [job_id(study.name, 3, 2)]
    assert study.last(3).why == "drain"


def test_a_second_signal_ends_the_worker_at_once(own_worker: RealWorker) -> None:
    study = RealStudy(own_worker, "deaf", kill_grace=600)
    study.send(3)
    own_worker.start()
    study.until_epoch(3, 2)
    children = own_worker.children()
    own_worker.process.terminate()
    own_worker.process.send_signal(signal.SIGINT)
    assert own_worker.process.wait(60) == 1
    eventually(lambda: not any(map(alive, children)), seconds=1)
    assert study.state(3) == "running", "its lease gives the trial back"


def test_a_child_dies_with_its_supervisor(own_worker: RealWorker) -> None:
    study = RealStudy(own_worker, "stuck")
    study.send(3, until=40)
    own_worker.start()
    study.until_epoch(3, 10)
    children = own_worker.children()
    assert children
    own_worker.process.kill()
    own_worker.process.wait()
    eventually(lambda: not any(map(alive, children)), seconds=1)


@pytest.fixture
def slots(redis_url: str, tmp_path: Path) -> Iterator[RealWorker]:
    """A worker of two slots, both there."""
    worker = RealWorker(redis_url, tmp_path, TASKS, "--slots", "2")
    worker.start()
    eventually(lambda: len(there(worker)) == 2)
    yield worker
    worker.stop()


def there(worker: RealWorker) -> set[int]:
    return {living.pid for living in living_workers(worker.connection)}


def test_every_slot_is_a_worker_and_is_started_again_when_it_dies(slots: RealWorker) -> None:
    before = there(slots)
    os.kill(min(before), signal.SIGKILL)
    eventually(lambda: there(slots) - before)
    slots.process.terminate()
    assert slots.process.wait(60) == 0
    assert not any(map(alive, there(slots) | before))


def test_a_slot_that_died_is_not_started_again_once_all_are_told_to_go(slots: RealWorker) -> None:
    killed, spared = there(slots)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: "starting it again" in slots.log.read_text())
    slots.process.terminate()
    assert slots.process.wait(60) == 0
    assert not alive(spared)
    assert slots.log.read_text().count("takes trials") == 2


# ---- the command line


def complaint(*flags: str, status: int, url: str = "") -> str:
    """Return the one line that a worker ends with."""
    environment = {k: v for k, v in os.environ.items() if k != URL_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-m", "scattershot_worker", *flags],
        env=environment | ({URL_VARIABLE: url} if url else {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("scattershot: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    return lines[0]


def test_a_worker_without_a_redis_says_how_to_name_one() -> None:
    assert complaint(status=2) == (
        f"scattershot: name the Redis to work for: --redis URL, or {URL_VARIABLE} set to it"
    )


def test_a_worker_on_an_unknown_device_says_what_there_is() -> None:
    line = complaint("--device", "tpu", status=2, url="redis://127.0.0.1:1")
    assert line == "scattershot: --device tpu: write auto, cpu, cuda, cuda:N or mps"


def test_a_worker_that_is_not_let_in_says_so_without_waiting(redis_url: str) -> None:
    address = redis_url.rpartition("@")[2]
    line = complaint("--wait", "60", status=1, url=f"redis://:s3cr3t@{address}")
    assert "refused the password" in line and "s3cr3t" not in line


def test_a_worker_without_anybody_at_its_address_gives_up_after_its_wait() -> None:
    line = complaint("--wait", "0", status=1, url="redis://:s3cr3t@127.0.0.1:1/0")
    assert "no Redis answers at redis://127.0.0.1:1/0" in line and "s3cr3t" not in line
