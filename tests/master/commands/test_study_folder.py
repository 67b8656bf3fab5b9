import os
from pathlib import Path

import pytest

from scattershot_common.errors import ScattershotError
from scattershot_master.commands import study_folder
from scattershot_master.state.ledger import LEDGER, Ledger


def study_in(folder: Path, age: float = 0.0) -> Path:
    folder.mkdir(parents=True)
    (folder / LEDGER).write_text("")
    at = 1_700_000_000 - age
    os.utime(folder / LEDGER, (at, at))
    return folder


def test_a_study_s_folder_means_itself(tmp_path: Path) -> None:
    folder = study_in(tmp_path / "digits")
    assert study_folder.study_folder(folder) == folder


def test_an_output_root_means_the_study_written_to_last(tmp_path: Path) -> None:
    study_in(tmp_path / "digits", age=10)
    newest = study_in(tmp_path / "digits-2")
    study_in(tmp_path / "mnist", age=20)
    assert study_folder.study_folder(tmp_path) == newest


def test_the_default_root_is_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study_in(Path("checkpoints/digits"))
    assert study_folder.study_folder(None) == Path("checkpoints/digits")


def test_a_folder_without_a_study_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ScattershotError) as told:
        study_folder.study_folder(tmp_path)
    assert f"{tmp_path / LEDGER}" in str(told.value)
    assert f"{tmp_path}/*/{LEDGER}" in str(told.value)


def test_a_study_s_bare_name_is_answered_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study_in(Path("checkpoints/digits"))
    with pytest.raises(ScattershotError, match=r"did you mean checkpoints/digits\?"):
        study_folder.study_folder(Path("digits"))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScattershotError, match="there is no folder"):
        study_folder.study_folder(tmp_path / "nowhere")


def test_a_study_runs_while_a_master_has_its_ledger_open(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "digits")
    assert study_folder.running(tmp_path / "digits")
    ledger.close()
    assert not study_folder.running(tmp_path / "digits")


def test_looking_does_not_keep_a_master_from_starting(tmp_path: Path) -> None:
    Ledger(tmp_path).close()
    assert not study_folder.running(tmp_path)
    Ledger(tmp_path).close()


def test_a_folder_without_a_ledger_does_not_run(tmp_path: Path) -> None:
    assert not study_folder.running(tmp_path)
