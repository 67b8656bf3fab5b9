import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_common.study.settings import StudyFile
from scattershot_master.search.open_study import newest_folder, note_home, open_study
from scattershot_master.state.ledger import LEDGER, Ledger, read
from support.pretend_master import SPACE, STAGES
from support.synthetic_study import event

TABLES: dict[str, Any] = {
    "study": {"name": "digits", "task": "digits", "data": "here"},
    "space": SPACE,
    "stage": [*STAGES],
    "kill": {"rule": "sync_halving"},
}


def study(name: str = "digits", **tables: Any) -> StudyFile:
    whole = {**TABLES, **tables}
    return StudyFile.model_validate({**whole, "study": {**whole["study"], "name": name}})


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Path]:
    """Open a study as the commands do, close it again; return its folder."""

    def opened(now: StudyFile, *, fresh: bool = False) -> Path:
        text = f'[study]\nname = "{now.study.name}"\n'
        named, ledger = open_study(now, text, tmp_path, fresh=fresh)
        ledger.close()
        assert named.study.name == ledger.folder.name == ledger.state.name
        return ledger.folder

    return opened


def files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_new_study_gets_a_folder_of_its_name(begin: Callable[..., Path], tmp_path: Path) -> None:
    folder = begin(study())
    assert folder == tmp_path / "digits"
    assert (folder / "study.toml").read_text() == '[study]\nname = "digits"\n'
    state = read(folder)
    assert len(state.uid) == 16
    assert StudyFile.model_validate(state.settings.recorded) == study()


def test_the_same_study_goes_on_in_its_folder_and_nothing_is_written(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    begin(study())
    before = files(tmp_path)
    assert begin(study()) == tmp_path / "digits"
    assert files(tmp_path) == before


def test_where_code_and_data_lie_is_noted_once_and_again_when_it_has_changed(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    folder = begin(study())
    assert (read(folder).home, read(folder).data) == ("", None)
    sizes = []
    for home, data in [("a", "x"), ("a", "x"), ("b", "x"), ("b", None), ("b", None)]:
        ledger = Ledger(folder)
        note_home(ledger, tmp_path / home, data)
        ledger.close()
        assert (read(folder).home, read(folder).data) == (str(tmp_path / home), data)
        sizes.append((folder / LEDGER).stat().st_size)
    assert sizes[0] == sizes[1] < sizes[2] < sizes[3] == sizes[4]


def test_a_fresh_start_gets_a_new_folder_and_deletes_nothing(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    folder = begin(study())
    (folder / "trials").mkdir()
    (folder / "trials" / "keep").write_text("me")
    before = files(tmp_path)
    assert begin(study(), fresh=True) == tmp_path / "digits-2"
    assert begin(study(), fresh=True) == tmp_path / "digits-3"
    assert before.items() <= files(tmp_path).items()
    assert len({read(tmp_path / name).uid for name in ("digits", "digits-2", "digits-3")}) == 3


def test_a_fresh_start_avoids_whatever_lies_there(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "digits").touch()
    (tmp_path / "digits-2").mkdir()
    assert begin(study(), fresh=True) == tmp_path / "digits-3"
    assert begin(study()) == tmp_path / "digits-3"


def test_the_latest_start_goes_on_whatever_was_touched_since(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    for _ in range(11):
        begin(study(), fresh=True)
    for number, name in enumerate(["digits-11", "digits-2", "digits"]):
        os.utime(tmp_path / name / LEDGER, (2e9 + number, 2e9 + number))
    assert begin(study()) == tmp_path / "digits-11"


def test_studies_whose_names_look_like_fresh_starts_are_told_apart(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    other = study("digits-2", space={"lr": 0.1})
    assert begin(study()) == tmp_path / "digits"
    assert begin(other) == tmp_path / "digits-2"
    assert begin(study()) == tmp_path / "digits"
    assert begin(study(), fresh=True) == tmp_path / "digits-3"
    assert begin(other) == tmp_path / "digits-2"
    assert begin(study()) == tmp_path / "digits-3"
    assert begin(study("digits-3")) == tmp_path / "digits-3-2"


@pytest.mark.parametrize("other", ["digits-x", "digits-2-3", "xdigits", "digits2", "Digits"])
def test_folders_of_other_names_are_left_alone(
    begin: Callable[..., Path], tmp_path: Path, other: str
) -> None:
    begin(study(other))
    assert newest_folder(tmp_path, "digits") is None
    assert begin(study()) == tmp_path / "digits"


def test_a_folder_without_its_study_file_still_goes_on(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    for text in (None, "not [ toml", "study = 7", "[study]"):
        path = begin(study()) / "study.toml"
        path.unlink() if text is None else path.write_text(text)
        assert newest_folder(tmp_path, "digits") == tmp_path / "digits"


def changed_stage(**keys: Any) -> list[dict[str, Any]]:
    return [STAGES[0], {**STAGES[1], **keys}, STAGES[2]]


REORDERED = {name: SPACE[name] for name in ("units", "lr", "dropout")}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"space": {**SPACE, "lr": {"loguniform": [1e-4, 1.0]}}}, "(space.lr)"),
        ({"space": {**SPACE, "width": 3}}, "(space.width)"),
        ({"space": {"lr": SPACE["lr"]}}, "(space.dropout, space.units)"),
        ({"space": REORDERED}, "(the order of [space])"),
        ({"stage": changed_stage(trials=7)}, "(stage.fine)"),
        ({"stage": [STAGES[0]]}, "(stage.fine, stage.final)"),
        ({"stage": [STAGES[1], STAGES[0], STAGES[2]]}, "(the order of [stage])"),
        ({"kill": {"rule": "median"}}, "(kill.rule)"),
        ({"kill": {"rule": "sync_halving", "eta": 4}}, "(kill.eta)"),
        ({"study": {**TABLES["study"], "seed": 1}}, "(study.seed)"),
        (
            {"study": {**TABLES["study"], "data": "elsewhere", "metric": "acc"}},
            "(study.metric)",
        ),
        (
            {"space": {"a": 1, "b": 2}, "kill": {"rule": "none"}},
            "(space.lr, space.dropout, space.units, …)",
        ),
    ],
)
def test_what_decides_the_trials_cannot_change_and_is_named(
    begin: Callable[..., Path], tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    begin(study())
    before = files(tmp_path)
    with pytest.raises(StudyFileError) as error:
        begin(study(**change))
    message = str(error.value)
    assert f"digits was begun with other settings {named}; restore them" in message
    assert "--fresh" in message
    assert files(tmp_path) == before
    Ledger(tmp_path / "digits").close()  # its lock was given back
    assert begin(study(**change), fresh=True) == tmp_path / "digits-2"


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoints": {"keep": 3}},
        {"ensemble": {"size": 9, "method": "top"}},
        {"worker": {"threads": 2}},
        {"study": {**TABLES["study"], "data": "elsewhere"}},
    ],
)
def test_other_settings_may_change_and_open_a_finished_study_again(
    begin: Callable[..., Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = begin(study())
    ledger = Ledger(folder)
    ledger.append(event("finished"))
    ledger.close()
    uid = read(folder).uid
    assert begin(study(**change)) == folder
    state = read(folder)
    assert (state.uid, state.finished) == (uid, False)
    assert StudyFile.model_validate(state.settings.recorded) == study(**change)


def test_a_study_that_another_master_runs_cannot_be_opened(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    ledger = Ledger(begin(study()))
    with pytest.raises(ScattershotError, match="another master runs the study"):
        begin(study())
    ledger.close()


def test_a_start_that_was_cut_off_before_its_first_event_begins_again(
    begin: Callable[..., Path], tmp_path: Path
) -> None:
    folder = begin(study())
    (folder / LEDGER).write_bytes(b'{"e":"stu')
    assert begin(study()) == folder
    assert read(folder).name == "digits"
