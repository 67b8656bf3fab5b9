import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scattershot_common.errors import StudyFileError
from scattershot_master.launch.local import LocalWorkers
from support.waiting import eventually


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[LocalWorkers]]:
    """Worker commands to be stopped when the test is over."""
    pools: list[LocalWorkers] = []
    yield pools
    for pool in pools:
        pool.stop()


def start(url: str, root: Path, device: str = "cpu") -> LocalWorkers:
    log = root / "logs" / "workers.log"
    return LocalWorkers(
        url, slots=1, root=root, device=device, threads=1, lanes="auto", paths=[root], log=log
    )


def test_a_command_that_died_is_started_again(
    redis_url: str, tmp_path: Path, started: list[LocalWorkers]
) -> None:
    pool = start(redis_url, tmp_path)
    started.append(pool)
    first = pool.pid
    pool.tend()
    assert pool.pid == first
    os.kill(first, signal.SIGKILL)
    eventually(lambda: pool.tend() or pool.pid != first)  # type: ignore[func-returns-value]
    assert psutil.pid_exists(pool.pid)


def test_workers_that_can_never_train_are_an_error_with_their_reason(
    redis_url: str, tmp_path: Path, started: list[LocalWorkers]
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('none for this machine')\n")
    pool = start(redis_url, tmp_path)
    started.append(pool)
    with pytest.raises(
        StudyFileError, match=r"do not start: this worker cannot train, torch .*: no"
    ):
        eventually(pool.tend)


def test_a_command_that_can_never_start_is_an_error_with_its_last_word(
    redis_url: str, tmp_path: Path, started: list[LocalWorkers]
) -> None:
    pool = start(redis_url, tmp_path, device="gpu")
    started.append(pool)
    with pytest.raises(StudyFileError, match=r"workers do not start: .*--device gpu: write auto"):
        eventually(pool.tend)
