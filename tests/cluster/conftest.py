"""Fixtures of the end-to-end tests: running commands, and a finished study to share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from scattershot_common.trial import MEASURED

STUDY = """\
[study]
name = "small"
task = "digits"

[space]
lr = { loguniform = [1e-3, 1e-1] }
optimizer = "adamw"
dropout = { uniform = [0.0, 0.5] }
hidden = { choice = [16, 32] }

[[stage]]
name = "coarse"
trials = 9
epochs = 4

[[stage]]
name = "fine"
refine = 0.5
trials = 4
epochs = 4

[[stage]]
name = "final"
continue = 2
epochs = 6
kill = "none"

[kill]
rule = "sync_halving"
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """Return the environment of a user without any scattershot settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SCATTERSHOT")}
    # pip's own redis-server stands in where the system has none
    return {**kept, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def command(*arguments: str | Path) -> list[str]:
    """Return the argv of a scattershot command."""
    return [str(Path(sys.executable).parent / "scattershot"), *map(str, arguments)]


@pytest.fixture(scope="session")
def scattershot() -> Run:
    """Run a command to its end; `cwd` and `status` (the exit code it must have) by keyword."""

    def run(
        *arguments: str | Path, cwd: Path | None = None, status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*arguments),
            cwd=cwd,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command in the background; whatever is left of it is killed at the test's end."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path, cwd: Path = tmp_path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(*arguments),
            cwd=cwd,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            for descendant in [*psutil.Process(process.pid).children(recursive=True), process]:
                descendant.send_signal(signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def table(export: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an export's trials by number, without what honestly differs between two runs."""
    trials = sorted(export["trials"], key=lambda trial: trial["trial"])
    for trial in trials:
        for key in ("attempts", "worker", "best_checkpoint", "started", "ended"):
            trial.pop(key, None)
        for line in trial["history"]:
            for name in MEASURED:
                line.pop(name, None)
    return trials


def export(scattershot: Run, folder: Path) -> dict[str, Any]:
    """Return a study as `export --json` prints it."""
    found: dict[str, Any] = json.loads(scattershot("export", folder, "--json").stdout)
    return found


@pytest.fixture(scope="session")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "small.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="session")
def finished(
    scattershot: Run, study_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A study that three workers ran undisturbed: its folder, and what the run printed."""
    out = tmp_path_factory.mktemp("out")
    done = scattershot("run", study_file, "--workers", "3", "--out", out)
    return out / "small", done.stdout
