"""The command `run`: what an error at its start leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from scattershot_common.errors import StudyFileError
from scattershot_common.study.study_file import load
from scattershot_master.commands.run import run
from scattershot_master.search.open_study import data_folder

STUDY = """
[study]
name = "mine"
task = "digits"
[space]
lr = 0.1
[[stage]]
name = "one"
trials = 1
epochs = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    return file


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_that_fails_at_its_start_leaves_no_folder(
    file: Path, tmp_path: Path, fresh: bool
) -> None:
    out = tmp_path / "out"
    (out / "mine" / "notes").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(StudyFileError, match="goes with rediss:// only"):
            run(file, 1, out, fresh, "cpu", "auto", "redis://h/0?ssl_cert_reqs=none")
    assert [folder.name for folder in out.iterdir()] == ["mine"]
    assert [path.name for path in (out / "mine").iterdir()] == ["notes"]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:0"])
def test_a_device_that_is_none_is_refused_before_anything_starts(
    file: Path, tmp_path: Path, device: str
) -> None:
    with pytest.raises(StudyFileError, match=f"--device {device}: write auto, cpu, cuda, cuda:N"):
        run(file, 1, tmp_path / "out", False, device, "auto", None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("data", "folder"), [("~/d", "home/d"), ("d", "d")])
def test_the_data_folder_may_be_in_the_users_home(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, folder: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file.write_text(STUDY.replace("[space]", f'data = "{data}"\n[space]'))
    assert data_folder(load(file), file) == str(tmp_path / folder)
