"""The child alone, with the test in its supervisor's place."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scattershot_worker.child_settings import SETTINGS, ChildSettings
from scattershot_worker.supervisor.child_process import ChildProcess

CHILD = ChildSettings(
    redis="redis://127.0.0.1:1/0", worker="w", root=".", device="cpu", threads=1, paths=()
)


def test_a_child_keeps_memory_that_it_frees_unless_its_user_wants_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1234")
    child = ChildProcess.spawn(CHILD, {"OMP_NUM_THREADS": "1"})
    try:
        given = Path(f"/proc/{child.process.pid}/environ").read_bytes().split(b"\0")
        assert {b"MALLOC_TRIM_THRESHOLD_=134217728", b"MALLOC_TOP_PAD_=1234"} <= {*given}
        assert b"OMP_NUM_THREADS=1" in given
    finally:
        child.kill()
        child.end()


def test_a_child_ends_when_its_supervisor_leaves_without_hearing_it_out() -> None:
    ours, theirs = socket.socketpair()
    child = subprocess.Popen(
        [sys.executable, "-m", "scattershot_worker.child.main", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, SETTINGS: CHILD.to_json()},
        stderr=subprocess.PIPE,
    )
    theirs.close()
    try:
        assert select.select([ours], [], [], 120)[0]  # it says that it is ready
        ours.close()
        _, said = child.communicate(timeout=20)
        assert child.returncode == 0 and b"Traceback" not in said
    finally:
        child.kill()
        child.wait()
