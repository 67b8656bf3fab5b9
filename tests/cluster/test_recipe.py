from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.conftest import Run, export
from scattershot_common.study.study_file import load
from support.waiting import eventually

STUDY = """\
[study]
name = "small"
task = "digits"

[space]
lr = { loguniform = [1e-6, 10] }
optimizer = { choice = ["sgd", "adamw"] }
hidden = { choice = [16, 32] }

[[stage]]
name = "coarse"
trials = 8
epochs = 2

[kill]
rule = "sync_halving"
"""


@pytest.mark.slow
def test_a_recipe_goes_from_checks_to_a_study_file_that_runs(
    scattershot: Run, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(STUDY)
    done = scattershot("recipe", "small.toml", "--workers", "2", cwd=tmp_path)
    titles = ["1. Initial loss", "2. Overfit", "3. Find", "4. Coarse", "5. Fine", "6. Loss curves"]
    places = [done.stdout.index(title) for title in titles]
    assert places == sorted(places)
    assert "with optimizer = sgd" in done.stdout
    written = load(tmp_path / "small-recipe.toml")
    low, high = written.space_table["lr"]["loguniform"]
    assert 1e-6 < low < high < 10
    folder = tmp_path / "checkpoints" / "small.recipe"
    text = (folder / "recipe.html").read_text()
    assert all(title in text for title in titles) and text.count("<svg") >= 6
    searched = export(scattershot, folder)
    assert [stage["name"] for stage in searched["stages"]] == ["coarse", "fine"]
    assert searched["ensemble"] is None  # the test part is not for the recipe to see
    again = scattershot("recipe", "small.toml", cwd=tmp_path)  # what was searched is not again
    assert load(tmp_path / "small-recipe.toml").identity() == written.identity()
    assert "worker" not in again.stdout.split("Search coarse")[1].split("4. Coarse")[0]


@pytest.mark.slow
def test_a_recipe_stops_where_a_step_fails_and_names_the_remedy(
    scattershot: Run, tmp_path: Path
) -> None:
    (tmp_path / "blind.py").write_text(
        "import torch, scattershot as ss\n"
        "from scattershot_worker.tasks.digits import Digits\n"
        "class Blind(Digits):\n"
        "    def model(self, params):\n"
        "        return torch.nn.Sequential(torch.nn.Threshold(9, 0), super().model(params))\n"
    )
    (tmp_path / "blind.toml").write_text(STUDY.replace('task = "digits"', 'task = "blind:Blind"'))
    done = scattershot("recipe", "blind.toml", cwd=tmp_path, status=1)
    assert "the recipe stops at step 2, overfit a small sample: It cannot learn" in done.stderr
    page = (tmp_path / "checkpoints" / "small.recipe" / "recipe.html").read_text()
    assert "Stop: It cannot learn even these by heart" in page and "3. Find" not in page
    assert not (tmp_path / "blind-recipe.toml").exists()


def test_a_file_that_is_not_from_a_recipe_is_not_written_over(
    scattershot: Run, tmp_path: Path
) -> None:
    for name in ("small.toml", "small-recipe.toml"):
        (tmp_path / name).write_text(STUDY)
    done = scattershot("recipe", "small.toml", cwd=tmp_path, status=2)
    assert "not from a recipe: name another with --write" in done.stderr
    assert (tmp_path / "small-recipe.toml").read_text() == STUDY


@pytest.mark.slow
def test_a_recipe_that_is_stopped_says_how_to_go_on(
    started: Callable[..., subprocess.Popen[str]], scattershot: Run, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(STUDY.replace("epochs = 2", "epochs = 400"))
    process = started("recipe", "small.toml", "--workers", "1")
    ledger = tmp_path / "checkpoints" / "small.recipe" / "small-search" / "ledger.jsonl"
    eventually(lambda: ledger.exists() and '"e":"report"' in ledger.read_text(), 120)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "To go on:  scattershot recipe small.toml --workers 1" in printed
