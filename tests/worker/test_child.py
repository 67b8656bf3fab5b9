"""The child alone, with the test in its supervisor's place."""

import os
import select
import socket
import subprocess
import sys

from scattershot_worker.child import SETTINGS, ChildSettings


def test_a_child_ends_when_its_supervisor_leaves_without_hearing_it_out() -> None:
    ours, theirs = socket.socketpair()
    settings = ChildSettings(
        redis="redis://127.0.0.1:1/0", worker="w", root=".", device="cpu", threads=1, paths=()
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "scattershot_worker.child", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, SETTINGS: settings.to_json()},
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
