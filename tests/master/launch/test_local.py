import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scattershot_common.errors import StudyFileError
from scattershot_master.launch.local import LocalLauncher
from support.waiting import eventually


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[LocalLauncher]]:
    """Worker commands to be stopped when the test is over."""
    launchers: list[LocalLauncher] = []
    yield launchers
    for launcher in launchers:
        launcher.stop()


def start(url: str, root: Path, device: str = "cpu") -> LocalLauncher:
    log = root / "logs" / "workers.log"
    launcher = LocalLauncher(
        url, root=root, device=device, threads=1, lanes="auto", paths=[root], log=log
    )
    launcher.start(1)
    return launcher


def test_a_command_that_died_is_started_again(
    redis_url: str, tmp_path: Path, started: list[LocalLauncher]
) -> None:
    launcher = start(redis_url, tmp_path)
    started.append(launcher)
    [first] = launcher.pids
    launcher.keep_alive()
    assert launcher.pids == [first]
    os.kill(first, signal.SIGKILL)
    eventually(lambda: launcher.keep_alive() or launcher.pids != [first])  # type: ignore[func-returns-value]
    assert psutil.pid_exists(launcher.pids[0])


def test_commands_are_stopped_latest_first_until_enough_workers_are_gone(
    redis_url: str, tmp_path: Path, started: list[LocalLauncher]
) -> None:
    launcher = start(redis_url, tmp_path)
    started.append(launcher)
    launcher.start(2)
    first, second = launcher.pids
    assert launcher.status() == (3, 3)
    launcher.stop(1)
    assert launcher.pids == [first]
    assert not psutil.pid_exists(second)
    assert launcher.status() == (1, 1)
    launcher.stop()
    assert launcher.status() == (0, 0)


def test_workers_that_can_never_train_are_an_error_with_their_reason(
    redis_url: str,
    tmp_path: Path,
    started: list[LocalLauncher],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "torch.py").write_text("raise ImportError('none for this machine')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    launcher = start(redis_url, tmp_path)
    started.append(launcher)
    with pytest.raises(
        StudyFileError, match=r"do not start: this worker cannot train, torch .*: no"
    ):
        eventually(launcher.keep_alive)


def test_a_command_that_can_never_start_is_an_error_with_its_last_word(
    redis_url: str, tmp_path: Path, started: list[LocalLauncher]
) -> None:
    launcher = start(redis_url, tmp_path, device="gpu")
    started.append(launcher)
    with pytest.raises(StudyFileError, match=r"workers do not start: .*--device gpu: write auto"):
        eventually(launcher.keep_alive)
