"""A master whose study has its checkpoints in an object store."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from scattershot_common.errors import StoreUnreachable, StudyFileError
from scattershot_common.store.checkpoint_header import metadata, seal
from scattershot_common.store.checkpoint_names import checkpoint_name, trial_key
from scattershot_common.store.object_store import ObjectStore
from scattershot_master.ensemble.build_ensemble import build_ensemble
from scattershot_master.export.data import trial_rows, whole_study
from scattershot_master.search.checkpoint_cleanup import CheckpointCleanup
from scattershot_master.search.open_study import open_study
from scattershot_master.show import study_page, trial_page
from scattershot_master.show.layout import plain_text
from scattershot_master.state.ledger import Ledger
from scattershot_master.state.study_state import StudyState
from support import s3_server
from support.pretend_master import STAGES, study_file
from support.synthetic_study import event

TABLES: dict[str, Any] = {"space": {"lr": 0.1}, "stage": [STAGES[0]]}
TARGETS = np.array([0, 1, 2, 0, 1, 2])


class Study:
    """A study with a ledger in a folder, and checkpoints in a store."""

    def __init__(self, root: Path, store: str) -> None:
        tables: dict[str, Any] = {**TABLES, "checkpoints": {"keep": 2, "store": store}}
        self.file, self.ledger = open_study(study_file(**tables), "", root, fresh=False)
        self.folder, self.state = self.ledger.folder, self.ledger.state
        self.ledger.append(event("stage", stage="coarse", index=0, target=99, box=[]))
        self.store = self.state.checkpoints(self.folder)

    def train(self, value: float, end: str = "complete") -> str:
        """Add a trial whose one epoch had `value`; return its checkpoint's key."""
        number, metrics = len(self.state.trials), {"val_accuracy": value}
        name = checkpoint_name("val_accuracy", value, number, 1)
        key = trial_key(number, name)
        header = {
            **{"study": "pretended", "trial": number, "attempt": 1, "epoch": 1, "params": {}},
            **{"seed": 1, "metric": "val_accuracy", "goal": "maximize", "value": value},
            "history": [{"epoch": 1, **metrics}],
        }
        right = np.eye(3, dtype=np.float32)[TARGETS]
        tensors = {"predictions": right, "targets": TARGETS}
        data = safetensors.numpy.save(tensors, metadata(header))
        self.store.write(key, seal(data))
        self.ledger.append(event("sampled", t=number, p={"lr": 0.1}, epochs=4, until=4))
        self.ledger.append(event("started", t=number, a=1, w="w"))
        self.ledger.append(event("report", t=number, a=1, n=1, m=metrics, f=name))
        self.ledger.append(event(end, t=number, a=1, r="ValueError: no" * (end == "failed")))
        self.ledger.commit()
        return key


@pytest.fixture
def study(bucket: str, tmp_path: Path) -> Iterator[Study]:
    study = Study(tmp_path, f"{bucket}/pre")
    yield study
    study.ledger.close()


@pytest.fixture
def no_answer(study: Study, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study, whose store nobody answers for."""
    for value in (0.5, 0.9):
        study.train(value)
    s3_server.use("http://127.0.0.1:9", monkeypatch)
    return study


def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is listed as a whole from now on."""
    listed: list[str] = []
    whole = ObjectStore.all_checkpoints

    def recorded(store: ObjectStore) -> Any:
        listed.append(store.address)
        return whole(store)

    monkeypatch.setattr(ObjectStore, "all_checkpoints", recorded)
    return listed


# ---- retention


def test_what_ranks_below_the_best_is_removed_from_the_store(study: Study) -> None:
    study.train(0.1)
    study.train(0.7)
    study.store.write(trial_key(0, "error.txt"), b"Traceback")
    keeping = CheckpointCleanup(study.state, study.store)
    for value in (0.8, 0.2, 0.9, math.pi / 100):
        study.train(value)
        keeping.ended(study.state.trials[len(study.state.trials) - 1])
    keeping.settle()
    assert sorted(study.store.all_checkpoints()) == [2, 4]
    assert study.store.exists(trial_key(0, "error.txt"))


def test_what_an_earlier_master_left_is_removed_by_one_listing(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(12):
        study.train(number / 100)
    listed = listings(monkeypatch)
    CheckpointCleanup(study.state, study.store).settle()
    assert sorted(study.store.all_checkpoints()) == [10, 11]
    assert len(listed) <= 3


def test_a_store_that_is_away_does_not_stop_the_search(no_answer: Study) -> None:
    keeping = CheckpointCleanup(no_answer.state, no_answer.store)
    keeping.ended(no_answer.state.trials[0])
    keeping.settle()


# ---- looking


def test_checkpoints_are_shown_by_their_urls(study: Study) -> None:
    gone, best_key = study.train(0.5), study.train(0.9)
    study.store.delete([gone])
    best = study.store.path_of(best_key)
    assert best == f"{study.store.address}/{best_key}"
    exported = whole_study(study.state, study.folder)
    assert [one["best_checkpoint"] for one in exported["trials"]] == [best, None]
    assert [row["best_checkpoint"] for row in trial_rows(study.state, study.folder)] == [
        best,
        None,
    ]
    status = plain_text(study_page.status(study.state, study.folder, running=False, now=0.0))
    assert f"\n{best}\n" in status and f"checkpoints  {study.store.address}/trials\n" in status
    assert f"its checkpoints in {study.store.address}" in plain_text(
        study_page.final(study.state, study.folder)
    )


def test_an_export_asks_the_store_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (0.5, 0.9, 0.7):
        study.train(value)
    listed = listings(monkeypatch)
    monkeypatch.setattr(ObjectStore, "exists", lambda store, key: pytest.fail("one by one"))
    assert all(one["best_checkpoint"] for one in whole_study(study.state, study.folder)["trials"])
    assert len(listed) == 1


def test_a_trial_is_shown_from_its_store(study: Study) -> None:
    keys = [study.train(0.5), study.train(0.25, "failed")]
    paths = [study.store.path_of(key) for key in keys]
    study.store.write(trial_key(1, "error.txt"), b"Traceback\nValueError: no")
    found = trial_page.read_trial(study.folder, 1)
    assert trial_page.trial_view_data(found, study.folder)["checkpoints"] == [paths[1]]
    text = plain_text(trial_page.trial_page(found))
    assert "ValueError: no" in text and paths[1] in text
    study.store.write(keys[0], study.store.read(keys[0])[:200])
    assert f"damaged {paths[0]}" in plain_text(
        trial_page.trial_page(trial_page.read_trial(study.folder, 0))
    )


def test_a_trial_that_the_ledger_lost_is_still_in_the_store(study: Study) -> None:
    study.train(0.5)
    study.train(0.75)
    lines = (study.folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    (study.folder / "ledger.jsonl").write_text("".join(lines[:2]))
    assert trial_page.read_trial(study.folder, 1).record.best_value == 0.75
    with pytest.raises(Exception, match=r"no trial 7 .* it has 0 to 1"):
        trial_page.read_trial(study.folder, 7)


def test_without_its_store_a_study_is_shown_from_the_ledger(
    no_answer: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = whole_study(no_answer.state, no_answer.folder)
    assert [(one["best_value"], one["best_checkpoint"]) for one in exported["trials"]] == [
        (0.9, None),
        (0.5, None),
    ]
    said = capsys.readouterr().err
    assert said.startswith("scattershot: which checkpoints are kept is not known: ")
    assert "does not answer" in said and said.count("\n") == 1
    text = plain_text(trial_page.trial_page(trial_page.read_trial(no_answer.folder, 1)))
    assert "0.9" in text and "not seen cannot list" in text
    json.dumps(
        trial_page.trial_view_data(trial_page.read_trial(no_answer.folder, 1), no_answer.folder)
    )


# ---- combining


def test_an_ensemble_is_built_from_the_store(study: Study) -> None:
    damaged, _ = study.train(0.9), study.train(0.5)
    study.store.write(damaged, study.store.read(damaged)[:-1])
    result = build_ensemble(study.state, study.folder, size=2, method="top")
    assert [member["trial"] for member in result["members"]] == [1]
    assert f"{study.store.path_of(damaged)} is damaged" in result["note"]


def test_no_ensemble_is_built_while_its_store_is_away(no_answer: Study) -> None:
    with pytest.raises(StoreUnreachable):
        build_ensemble(no_answer.state, no_answer.folder, size=2, method="top")


# ---- opening


def test_the_store_may_change_until_trials_have_begun(bucket: str, tmp_path: Path) -> None:
    first = Study(tmp_path, f"{bucket}/wrong")
    first.ledger.close()
    second = Study(tmp_path, f"{bucket}/right")
    assert second.store.address == f"{bucket}/right/pretended"
    second.train(0.5)
    second.ledger.close()
    for store in (f"{bucket}/wrong", None):
        moved = study_file(**TABLES, checkpoints={"keep": 2, "store": store})
        with pytest.raises(StudyFileError, match=rf"checkpoints in {bucket}/right: .* --fresh"):
            open_study(moved, "", tmp_path, fresh=False)
    Ledger(second.folder).close()  # its lock was given back
    Study(tmp_path, f"{bucket}/right").ledger.close()


def test_a_study_in_a_moved_folder_still_finds_its_store(study: Study, tmp_path: Path) -> None:
    best = study.store.path_of(study.train(0.9))
    study.ledger.close()
    moved = Path(shutil.move(study.folder, tmp_path / "elsewhere"))
    found = trial_page.read_trial(moved, 0)
    assert [*found.checkpoints] == [best]
    assert isinstance(found.state, StudyState)
