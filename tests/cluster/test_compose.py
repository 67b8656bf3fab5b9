"""The cluster of docker-compose.yml on a real engine: `make test-cluster`.

Skipped where no docker engine answers (`docker info`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.conftest import Run, export, table
from scattershot_master.state.ledger import LEDGER, read
from support.waiting import eventually

ROOT = Path(__file__).parents[2]

TASK = """\
import time
from pathlib import Path
from scattershot_worker.tasks.digits import Digits

PAUSE = float(Path(__file__).with_name("pause").read_text())


class Slow(Digits):
    def loss(self, outputs, targets):
        time.sleep(PAUSE)
        return super().loss(outputs, targets)
"""

STUDY = """\
[study]
name = "slow"
task = "slow_digits:Slow"

[space]
lr = { loguniform = [1e-3, 1e-1] }
dropout = { uniform = [0.0, 0.5] }

[[stage]]
name = "coarse"
trials = 9
epochs = 9

[[stage]]
name = "final"
continue = 1
epochs = 12
kill = "none"

[kill]
rule = "sync_halving"
"""

Compose = Callable[..., subprocess.CompletedProcess[str]]


def _engine_answers() -> bool:
    return bool(shutil.which("docker")) and (
        subprocess.run(["docker", "info"], capture_output=True).returncode == 0
        and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    )


pytestmark = pytest.mark.skipif(
    not _engine_answers(), reason="no docker engine with compose answers on this machine"
)


@pytest.fixture(scope="module")
def image() -> None:
    subprocess.run(
        ["docker", "compose", "build", "master"], cwd=ROOT, check=True, capture_output=True
    )


@pytest.fixture
def compose(tmp_path: Path, image: None) -> Iterator[Compose]:
    """Run `docker compose …` on a project, a study folder and a checkpoints folder of its own."""
    folder = tmp_path / "study"
    folder.mkdir()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints").chmod(0o777)  # the containers run without root
    (folder / "slow_digits.py").write_text(TASK)
    (folder / "slow.toml").write_text(STUDY)
    project = f"scattershot-{os.getpid()}"
    environment = {
        **os.environ,
        "STUDY_DIR": str(folder),
        "STUDY": "slow.toml",
        "CHECKPOINTS": str(tmp_path / "checkpoints"),
        "DATA_DIR": str(tmp_path),
        "REDIS_PASSWORD": "for-this-test",
    }

    def run(*arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "compose", "-p", project, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert status is None or done.returncode == status, done.stdout + done.stderr
        return done

    yield run
    run("down", "--volumes", "--timeout", "10", status=None)


def _epochs(folder: Path) -> int:
    path = folder / LEDGER
    if not path.exists() or not path.stat().st_size:
        return 0
    return sum(len(trial.history) for trial in read(folder).trials.values())


@pytest.mark.slow
def test_compose_up_runs_the_study_to_its_end_on_the_host(
    compose: Compose, tmp_path: Path, scattershot: Run
) -> None:
    (tmp_path / "study" / "pause").write_text("0")
    done = compose("up", "--exit-code-from", "master")
    assert "everything is in /checkpoints/slow" in done.stdout
    assert "for-this-test" not in done.stdout + done.stderr
    result = export(scattershot, tmp_path / "checkpoints" / "slow")
    assert result["ensemble"]["test"]["examples"] == 360
    assert len(result["trials"]) == 9
    best = result["trials"][0]
    assert (tmp_path / "checkpoints" / "slow" / best["best_checkpoint"]).exists()


@pytest.mark.slow
def test_dying_and_vanishing_containers_change_no_digit(
    compose: Compose, tmp_path: Path, scattershot: Run
) -> None:
    pause = tmp_path / "study" / "pause"
    pause.write_text("0")
    scattershot("run", tmp_path / "study" / "slow.toml", "--workers", "2", "--out", tmp_path / "u")
    undisturbed = export(scattershot, tmp_path / "u")

    pause.write_text("0.08")
    compose("up", "--detach", "--scale", "worker=3")
    folder = tmp_path / "checkpoints" / "slow"
    workers = compose("ps", "-q", "worker").stdout.split()
    network = next(iter(_networks(workers[0])))
    eventually(lambda: _epochs(folder) >= 2, 120)
    subprocess.run(["docker", "kill", workers[0]], check=True, capture_output=True)
    eventually(lambda: _epochs(folder) >= 4, 120)
    subprocess.run(["docker", "network", "disconnect", network, workers[1]], check=True)
    cut = time.monotonic()
    compose("restart", "redis")
    eventually(lambda: _epochs(folder) >= 6, 120)
    compose("restart", "master")
    eventually(lambda: time.monotonic() > cut + 40, 60)
    subprocess.run(["docker", "network", "connect", network, workers[1]], check=True)
    eventually(lambda: read(folder).finished, 300)
    disturbed = export(scattershot, tmp_path / "checkpoints")
    assert max(trial["attempts"] for trial in disturbed["trials"]) > 3
    assert table(disturbed) == table(undisturbed)
    assert disturbed["ensemble"]["members"] == undisturbed["ensemble"]["members"]


def _networks(container: str) -> list[str]:
    template = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}"
    done = subprocess.run(
        ["docker", "inspect", "-f", template, container],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.split()
