from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.conftest import STUDY, Run


@pytest.mark.slow
def test_digits_passes_all_checks(scattershot: Run, study_file: Path, tmp_path: Path) -> None:
    done = scattershot("check", study_file, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("digits  lr 0.01, optimizer adamw, dropout 0.25, hidden 32")
    names = [line.split()[1] for line in lines if line.startswith("pass")]
    assert names == [
        "data", "initial_loss", "regularization", "gradients", "overfit", "learning", "rates"
    ]  # fmt: skip
    assert lines[-3] == "7 pass, 1 skipped"
    folder = tmp_path / "checkpoints" / "small.check"
    assert (folder / "learning-rates.svg").read_text().startswith("<svg")
    saved = json.loads((folder / "check.json").read_text())
    assert len(saved["checks"]) == 8 and saved["params"]["hidden"] == 32


def test_a_check_that_fails_is_exit_code_1(scattershot: Run, tmp_path: Path) -> None:
    (tmp_path / "blind.py").write_text(
        "import torch, scattershot as ss\n"
        "from scattershot_worker.tasks.digits import Digits\n"
        "class Blind(Digits):\n"
        "    def model(self, params):\n"
        "        return torch.nn.Sequential(torch.nn.Threshold(9, 0), super().model(params))\n"
    )
    (tmp_path / "blind.toml").write_text(STUDY.replace('"digits"', '"blind:Blind"'))
    done = scattershot(
        "check", tmp_path / "blind.toml", "--only", "overfit", "--param", "hidden=16",
        "--out", tmp_path / "out", "--json", status=1,
    )  # fmt: skip
    printed = json.loads(done.stdout)
    assert not printed["ok"] and printed["params"]["hidden"] == 16 and printed["plot"] is None
    assert [(check["name"], check["status"]) for check in printed["checks"]] == [
        ("overfit", "fail")
    ]


def test_what_is_written_wrongly_is_exit_code_2(
    scattershot: Run, study_file: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(STUDY.replace('task = "digits"', 'task = "digit"'))
    cases: list[tuple[list[str | Path], str]] = [
        ([wrong], 'did you mean "digits"?'),
        ([study_file, "--only", "lr"], "there is no check 'lr'"),
        ([study_file, "--param", "hiden=3"], 'did you mean "hidden"?'),
        ([study_file, "--device", "gpu"], "write auto, cpu, cuda, cuda:N or mps"),
        ([study_file, "--out", wrong], "cannot make the folder"),
    ]
    for arguments, message in cases:
        assert message in scattershot("check", *arguments, status=2).stderr
