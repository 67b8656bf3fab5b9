"""`scattershot doctor` with real workers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster.conftest import command, environment
from scattershot_common.bus.connection import URL_VARIABLE
from support.real_worker import RealWorker
from support.waiting import eventually


def shared(worker: RealWorker, root: Path) -> dict[str, Any]:
    """Return what `doctor` finds out about the worker's folder."""
    done = subprocess.run(
        command("doctor", root, "--wait", "20", "--json"),
        env={**environment(), URL_VARIABLE: worker.url},
        capture_output=True,
        text=True,
    )
    checks = {check["about"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["versions"]["level"] == "ok", checks["versions"]
    found: dict[str, Any] = checks["shared folder"]
    return found


@pytest.mark.slow
def test_a_worker_tells_whether_it_sees_the_masters_folder(redis_url: str, tmp_path: Path) -> None:
    worker = RealWorker(redis_url, tmp_path / "here", "")
    worker.start()
    try:
        name = eventually(lambda: worker.name)
        found = shared(worker, tmp_path / "here")
        assert found["level"] == "ok"
        assert found["found"] == f"1 of 1 workers see {tmp_path / 'here'} and can write to it"
        (tmp_path / "elsewhere").mkdir()
        found = shared(worker, tmp_path / "elsewhere")
        assert found["level"] == "fail"
        assert found["found"] == f"{name}: its {tmp_path / 'here'} is another folder"
        left = {path.name for path in (tmp_path / "here").iterdir()}
        assert left <= {"their_tasks.py", "worker.log"}
    finally:
        worker.stop()
