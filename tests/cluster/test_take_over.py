"""Two masters on one study, as commands."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.conftest import Run
from scattershot_common.bus.connection import connect
from scattershot_common.bus.keys import Keys
from scattershot_master.state.ledger import read
from support.waiting import eventually

Started = Callable[..., subprocess.Popen[str]]


@pytest.mark.slow
def test_a_second_master_is_refused_or_takes_over_and_the_first_stops(
    redis_url: str, study_file: Path, scattershot: Run, started: Started, tmp_path: Path
) -> None:
    words = ["master", study_file, "--redis", redis_url, "--out", tmp_path]
    redis, key = connect(redis_url), Keys("small").master
    first = started(*words)
    eventually(lambda: redis.get(key), 30)

    refused = scattershot(*words, status=1)
    assert "another master runs the study" in refused.stderr
    assert "--take-over" in refused.stderr
    assert first.poll() is None

    mine = redis.get(key)
    second = started(*words, "--take-over")
    said, _ = first.communicate(timeout=30)
    assert first.returncode == 1
    assert "another master has taken over this study" in said
    uid = read(tmp_path / "small").uid
    eventually(lambda: str(redis.get(key)).startswith(uid) and redis.get(key) != mine, 30)
    eventually(lambda: redis.exists(Keys("small").trial(0)), 30)
    second.send_signal(signal.SIGTERM)
    said, _ = second.communicate(timeout=30)
    assert second.returncode == 130, said
    assert "--take-over" not in said


def test_a_study_without_a_master_is_taken_over_too(
    redis_url: str, study_file: Path, started: Started, tmp_path: Path
) -> None:
    master = started("master", study_file, "--redis", redis_url, "--out", tmp_path, "--take-over")
    eventually(lambda: connect(redis_url).exists(Keys("small").master), 30)
    assert master.poll() is None
