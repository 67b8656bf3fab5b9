"""`scattershot recover` on a study of real workers."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.conftest import Run, export, table
from scattershot_master.state.ledger import LEDGER, read
from support.waiting import alive, eventually


def reported(folder: Path) -> int:
    path = folder / LEDGER
    if not path.exists() or not path.stat().st_size:
        return 0
    return sum(len(trial.history) for trial in read(folder).trials.values())


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["gone", "damaged"])
def test_a_study_that_was_killed_and_lost_its_ledger_comes_to_the_same_end(
    finished: tuple[Path, str],
    study_file: Path,
    scattershot: Run,
    started: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    loss: str,
) -> None:
    run = started("run", study_file, "--workers", "2", "--out", tmp_path)
    folder = tmp_path / "small"
    eventually(lambda: reported(folder) > 12, 120)
    family = [process.pid for process in psutil.Process(run.pid).children(recursive=True)]
    run.send_signal(signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in family), 20)
    ledger = folder / LEDGER
    if loss == "gone":
        ledger.unlink()
    else:
        ledger.write_bytes(ledger.read_bytes().replace(b'"sampled"', b'"sam\0led"'))
        assert "recover" in scattershot("doctor", folder, status=1).stdout
    said = scattershot("recover", folder).stdout
    assert said.startswith("recovered 9 trials with ")
    assert str(folder / "redis.before-recovery-1") in said
    assert "9 trials" in scattershot("status", folder).stdout
    scattershot("run", study_file, "--workers", "2", "--out", tmp_path)
    assert table(export(scattershot, folder)) == table(export(scattershot, finished[0]))
