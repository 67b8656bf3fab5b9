"""Files of a user's that are called like modules of Python or of what is installed."""

from pathlib import Path

import pytest

from cluster.conftest import Run

STUDY = """
[study]
name = "names"
task = "mine:train"
[space]
lr = { loguniform = [1e-3, 1e-1] }
[[stage]]
name = "one"
trials = 1
epochs = 1
"""
TASK = """
import torch


def train(trial):
    model = torch.nn.Linear(1, 1)
    for epoch in trial.epochs(model=model):
        trial.report(val_accuracy=0.5)
"""
NAMES = ("queue", "redis", "random", "logging", "select", "signal", "torch", "statistics", "typer")


@pytest.mark.slow
def test_a_file_that_is_called_like_a_module_is_not_in_the_way(
    scattershot: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "mine.py").write_text(TASK)
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    done = scattershot("run", "study.toml", "--workers", "1")
    assert "1 complete" in done.stdout
