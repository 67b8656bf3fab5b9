"""A Redis password and the cluster's secret: in no process list, log, ledger, page or export."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.conftest import command, environment
from scattershot_common.bus.connection import URL_VARIABLE, connect
from scattershot_common.bus.server import EmbeddedServer
from scattershot_common.bus.signing import SECRET_VARIABLE
from support.waiting import eventually

STUDY = """\
[study]
name = "quiet"
task = "quiet:train"
[space]
lr = { uniform = [0.0, 1.0] }
[[stage]]
name = "all"
trials = 4
epochs = 2
"""
#: Trials that crash, fail and complete: each way has its own words in logs and ledger.
TASK = """\
import os
import time
def train(trial):
    for epoch in trial.epochs():
        for _ in trial.batches(range(10)):
            time.sleep(0.02)
        if trial.number == 1:
            raise ValueError("a bug")
        if trial.number == 2:
            os._exit(3)
        trial.report(val_accuracy=trial.params["lr"])
"""
SECRET = "Tr0ub4dor-and-3"
PASSWORD = "c0rrect-h0rse"


class Monitor:
    """What `ps` showed of a process and all its descendants, while it ran."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: set[str] = set()
        self._process = psutil.Process(process.pid)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._end.wait(0.02):
            try:
                family = [self._process, *self._process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in family:
                try:
                    raw = Path(f"/proc/{process.pid}/cmdline").read_bytes()
                except OSError:
                    continue
                self.lines.add(raw.replace(b"\0", b" ").decode(errors="replace"))

    def stop(self) -> set[str]:
        self._end.set()
        self._thread.join()
        return self.lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "quiet.toml").write_text(STUDY)
    (tmp_path / "quiet.py").write_text(TASK)
    return tmp_path


def run(folder: Path, **more: str) -> tuple[str, set[str]]:
    """Run the study; return all that it printed, and what `ps` showed meanwhile."""
    process = subprocess.Popen(
        command("run", folder / "quiet.toml", "--workers", "2", "--out", folder / "out"),
        env={**environment(), SECRET_VARIABLE: SECRET, **more},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watch = Monitor(process)
    try:
        printed, _ = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed, watch.stop()


def files(folder: Path) -> Iterator[Path]:
    """Yield all files of the run but the two that hold the embedded server's password."""
    for path in (folder / "out").rglob("*"):
        if path.is_file() and path.name not in ("redis.conf", "server.json"):
            yield path


def told(folder: Path) -> str:
    """Return what the looking commands print of the study."""
    study = folder / "out" / "quiet"
    words = (["status"], ["status", "--json"], ["top"], ["export", "--json"], ["export", "--csv"])
    commands = [command(*arguments, study) for arguments in words] + [command("show", "1", study)]
    return "".join(
        subprocess.run(
            arguments, env=environment(), capture_output=True, text=True, check=True
        ).stdout
        for arguments in commands
    )


def assert_nowhere(secrets: list[str], folder: Path, printed: str, lines: set[str]) -> None:
    assert len(lines) >= 5, "the master, the pool, supervisors, children"
    assert any("scattershot_worker.child.main" in line for line in lines)
    for secret in secrets:
        assert not [line for line in lines if secret in line]
        assert secret not in printed
        assert secret not in told(folder)
        assert not [path for path in files(folder) if secret.encode() in path.read_bytes()]


class Reader:
    """Reads the embedded server's URL, and who may read its files, while it runs."""

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.modes: dict[str, int] = {}
        self._folder = folder
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        def look() -> bool:
            with suppress(OSError, ValueError):
                self.url = str(json.loads((self._folder / "server.json").read_text())["url"])
            return bool(self.url)

        eventually(look, 120)
        for name in ("redis.conf", "server.json"):
            self.modes[name] = stat.S_IMODE((self._folder / name).stat().st_mode)

    def password(self) -> str:
        self._thread.join()
        return self.url.partition("//:")[2].partition("@")[0]


@pytest.mark.slow
def test_the_embedded_redis_keeps_its_password_in_two_files_of_the_owner(folder: Path) -> None:
    reader = Reader(folder / "out" / "quiet" / "redis")
    printed, lines = run(folder)
    assert len(reader.password()) >= 32
    assert set(reader.modes.values()) == {0o600}
    assert_nowhere([reader.password(), SECRET], folder, printed, lines)


@pytest.mark.slow
def test_a_redis_named_in_the_environment_keeps_its_password(folder: Path, tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path / "elsewhere")
    server.start()
    try:
        address = server.url.rpartition("@")[2]
        admin = connect(server.url)
        admin.acl_setuser(
            "searcher",
            enabled=True,
            passwords=[f"+{PASSWORD}"],
            keys=["*"],
            channels=["*"],
            categories=["+@all"],
        )
        url = f"redis://searcher:{PASSWORD}@{address}"
        printed, lines = run(folder, **{URL_VARIABLE: url})
    finally:
        server.stop()
    assert_nowhere([PASSWORD, SECRET], folder, printed, lines)


#: The command, with a master that waits a second for its Redis, not a minute.
IMPATIENT = """\
from unittest.mock import patch

from scattershot_master.cli import main
from scattershot_master.search import run_study

with patch.object(run_study, "_REDIS_STARTS", 1.0):
    main()
"""


def test_a_redis_that_is_gone_is_told_without_its_password(folder: Path) -> None:
    url = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, *map(str, words)],
            env={**environment(), URL_VARIABLE: url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
        for words in (
            ["run", folder / "quiet.toml", "--out", folder / "out-1"],
            ["master", folder / "quiet.toml", "--out", folder / "out-2"],
            ["worker", "--wait", "0"],
        )
    ]
    for process in started:
        out, errors = process.communicate()
        assert process.returncode == 1
        assert "no Redis answers" in errors
        assert PASSWORD not in out + errors
