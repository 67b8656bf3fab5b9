from __future__ import annotations

from pathlib import Path

import pytest

from cluster.conftest import Run, export

TASK = """\
import torch
from torch import nn
import scattershot as ss
from common.points import circle   # the user's own package called common


class Circle(ss.Task):
    def data(self):
        x, y = circle()
        return ss.Data(train=(x[:400], y[:400]), val=(x[400:500], y[400:500]),
                       test=(x[500:], y[500:]))

    def model(self, params):
        width = params["width"]
        return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))


def train(trial):
    x, y = circle()
    net = nn.Sequential(nn.Linear(2, trial.params["width"]), nn.Tanh(),
                        nn.Linear(trial.params["width"], 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=trial.params["lr"])
    for epoch in trial.epochs(model=net, optimizer=optimizer):
        for index in trial.batches(torch.randperm(400).split(32)):
            loss = nn.functional.cross_entropy(net(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            outputs = net(x[400:500])
        trial.report(val_accuracy=(outputs.argmax(1) == y[400:500]).float().mean(),
                     train_loss=loss, predictions=outputs.softmax(1), targets=y[400:500])
"""

POINTS = """\
import torch


def circle():
    x = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    return x, (x.square().sum(1) < 1.4).long()
"""

STUDY = """\
[study]
name = "{name}"
task = "mine:{name}"
[space]
lr = {{ loguniform = [1e-3, 1e-1] }}
width = 16
[[stage]]
name = "all"
trials = 3
epochs = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").touch()
    (tmp_path / "common" / "points.py").write_text(POINTS)
    (tmp_path / "mine.py").write_text(TASK)
    for name in ("Circle", "train"):
        (tmp_path / f"{name}.toml").write_text(STUDY.format(name=name))
    return tmp_path


@pytest.mark.slow
def test_a_task_class_beside_a_package_called_common(folder: Path, scattershot: Run) -> None:
    scattershot(
        "run", folder / "Circle.toml", "--workers", "2", "--out", folder / "out", cwd=folder
    )
    result = export(scattershot, folder / "out")
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    assert result["ensemble"]["test"]["examples"] == 100


ODD = """\
import torch
from torch import nn
import scattershot as ss
from common.points import circle


class Circle(ss.Task):
    def data(self):
        x, y = circle()
        y = self.targets(y)
        return ss.Data((x[:400], y[:400]), (x[400:500], y[400:500]), (x[500:], y[500:]))

    def model(self, params):
        return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
"""
BINARY = """\
    def targets(self, y):
        return y.bool()

    def loss(self, outputs, targets):
        return nn.functional.binary_cross_entropy_with_logits(outputs.squeeze(1), targets.float())
"""
COUNTS = """\
    kind = "regression"

    def targets(self, y):
        return 3 * y
"""
SHIFTED = """\
    def targets(self, y):
        return y + 1

    def model(self, params):
        return nn.Linear(2, 2)

    def loss(self, outputs, targets):
        return nn.functional.cross_entropy(outputs, targets - 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "metric", "scored"),
    [(BINARY, "accuracy", "accuracy"), (COUNTS, "mae", "mae"), (SHIFTED, "loss", None)],
    ids=["binary", "counts", "shifted"],
)
def test_targets_that_are_no_numbers_of_columns_end_a_run_well(
    folder: Path, scattershot: Run, code: str, metric: str, scored: str | None
) -> None:
    (folder / "mine.py").write_text(ODD + "\n" + code)
    study = folder / "Circle.toml"
    goal = "maximize" if metric == "accuracy" else "minimize"
    named = f'metric = "val_{metric}"\ngoal = "{goal}"\n[space]'
    study.write_text(study.read_text().replace("[space]", named))
    done = scattershot("run", study, "--workers", "2", "--out", folder / "out", cwd=folder)
    assert "Traceback" not in done.stdout + done.stderr
    assert "3 trials: 3 complete" in done.stdout
    result = export(scattershot, folder / "out")["ensemble"]
    if scored is None:
        assert "no ensemble: targets from 1 to 2 are no numbers" in done.stdout + done.stderr
    else:
        assert (result["score_name"], result["test"]["examples"]) == (scored, 100)


@pytest.mark.slow
def test_an_ensemble_is_tested_from_any_folder_with_the_data_that_the_run_had(
    folder: Path, scattershot: Run
) -> None:
    text = TASK.replace("        x, y = circle()\n        return", DATA_FROM_A_FILE)
    (folder / "mine.py").write_text(text)
    (folder / "data").mkdir()
    (folder / "data" / "points.txt").write_text("600")
    study = folder / "Circle.toml"
    study.write_text(study.read_text().replace("[space]", 'data = "data"\n[space]'))
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    scattershot("run", study, "--workers", "1", "--out", folder / "out", cwd=elsewhere)
    before = export(scattershot, folder / "out")["ensemble"]
    assert before["test"]["examples"] == 100
    scattershot("ensemble", "build", folder / "out", cwd=elsewhere)
    scattershot("ensemble", "eval", folder / "out", cwd=elsewhere)
    assert export(scattershot, folder / "out")["ensemble"] == before


DATA_FROM_A_FILE = """\
        x, y = circle()
        assert (self.folder / "points.txt").read_text() == str(len(x))
        return"""


def test_a_train_function_checkpoints_resumes_and_joins_an_ensemble(
    folder: Path, scattershot: Run
) -> None:
    scattershot("run", folder / "train.toml", "--workers", "2", "--out", folder / "out", cwd=folder)
    result = export(scattershot, folder / "out")
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    assert all(trial["best_checkpoint"] for trial in result["trials"])
    assert result["ensemble"]["members"] and result["ensemble"]["test"] is None
    assert "train function" in result["ensemble"]["note"]


@pytest.mark.slow
def test_code_that_fails_alike_in_every_trial_stops_the_study_with_its_reason(
    folder: Path, scattershot: Run
) -> None:
    (folder / "mine.py").write_text(TASK.replace("nn.Tanh()", "nn.Tanhh()"))
    done = scattershot(
        "run", folder / "Circle.toml", "--workers", "2", "--out", folder / "out", status=1
    )
    last = done.stderr.strip().splitlines()[-1]
    assert "Tanhh" in last and "mine.py:" in last and "error.txt" in last


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("[study", "not TOML"),
        (STUDY.format(name="Circle").replace("1e-3, 1e-1", "1e-1, 1e-3"), "space.lr"),
        (STUDY.format(name="Circle").replace("epochs", "epohcs"), "epochs"),
        (STUDY.format(name="Circles"), "Circle"),
        (STUDY.format(name="Circle").replace("1e-3", '"1e-3"'), "quotes"),
    ],
)
def test_a_wrong_study_file_is_told_before_anything_starts(
    folder: Path, scattershot: Run, broken: str, said: str
) -> None:
    (folder / "wrong.toml").write_text(broken)
    done = scattershot("run", folder / "wrong.toml", "--out", folder / "out", status=2)
    assert said in done.stderr and "wrong.toml" in done.stderr
    assert not (folder / "out").exists()


def test_wrong_words_on_the_command_line_exit_with_2(folder: Path, scattershot: Run) -> None:
    scattershot("run", folder / "missing.toml", status=2)
    scattershot("run", folder / "Circle.toml", "--workers", "0", status=2)
    assert (
        "cuda:N"
        in scattershot("worker", "--device", "gpu", "--redis", "redis://x", status=2).stderr
    )
    assert "SCATTERSHOT_REDIS" in scattershot("worker", status=2).stderr
    assert "SCATTERSHOT_REDIS" in scattershot("master", folder / "Circle.toml", status=2).stderr
    assert "checkpoints" in scattershot("status", cwd=folder, status=1).stderr
