"""Studies that version 0.1.0 wrote: they are shown, resumed and exported as they were then."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.conftest import Run, export, table
from scattershot_master.state.ledger import LEDGER
from scattershot_worker.attempt.snapshot import read_tensors
from scattershot_worker.tasks.digits import Digits
from support.checkpoints import list_checkpoints, load, read_header

DATA = Path(__file__).parents[1] / "data" / "study-0.1"
LEDGERS = ["finished", "events", "killed"]
KINDS = {
    *("study", "settings", "home", "stage", "closed", "sampled", "settled", "ensemble"),
    *("kind", "kill", "stop", "skipped", "finished", "started", "report"),
    *("waiting", "paused", "complete", "killed", "failed"),
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the study that was interrupted in its second stage."""
    shutil.copytree(DATA / "old", tmp_path / "old")
    return tmp_path / "old"


def recorded(name: str) -> dict[str, Any]:
    """Return what version 0.1.0 exported of a finished study."""
    exported: dict[str, Any] = json.loads((DATA / "ledgers" / f"{name}.json").read_text())
    return exported


def test_the_recorded_ledgers_have_every_kind_of_event() -> None:
    lines = [
        line
        for path in [*(DATA / "ledgers").glob("*.jsonl"), DATA / "old" / LEDGER]
        for line in path.read_text().splitlines()
    ]
    assert {json.loads(line)["e"] for line in lines} == KINDS


@pytest.mark.parametrize("name", LEDGERS)
def test_a_ledger_is_exported_as_it_was_then(name: str, scattershot: Run, tmp_path: Path) -> None:
    shutil.copy(DATA / "ledgers" / f"{name}.jsonl", tmp_path / LEDGER)
    exported, expected = export(scattershot, tmp_path), recorded(name)
    for document in (exported, expected):
        del document["study"]["folder"]
    assert exported == expected


def test_a_checkpoint_loads_into_todays_model(old: Path) -> None:
    path = list_checkpoints(old, 8)[-1]
    header = read_header(path)
    assert (header["trial"], header["epoch"], header["attempt"]) == (8, 6, 3)
    assert [line["epoch"] for line in header["history"]] == [1, 2, 3, 4, 5, 6]
    task = Digits()
    model = task.model(header["params"])
    tensors = read_tensors(load(path))
    weights = {
        name.removeprefix("model/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("model/")
    }
    assert weights, sorted(tensors)
    model.load_state_dict(weights)


def test_an_interrupted_study_is_shown_resumed_and_has_its_ensemble(
    old: Path, scattershot: Run
) -> None:
    assert "fine" in scattershot("status", old).stdout
    best = scattershot("top", old).stdout.splitlines()
    assert any("0.9583" in line for line in best)
    assert "trial 8" in scattershot("show", "8", old).stdout
    assert "the best trial, 8" in scattershot("diagnose", old).stdout
    before = export(scattershot, old)
    ran = scattershot(
        "run", old / "study.toml", "--workers", "1", "--lanes", "1", "--out", old.parent
    ).stdout
    assert "ensemble of" in ran
    after, expected = export(scattershot, old), recorded("finished")
    assert after["study"]["finished"]
    for trial, then, was in zip(table(after), table(expected), table(before), strict=True):
        # what stood in the ledger is as it was; what was trained now may round as this machine does
        length = len(was["history"])
        assert trial["history"][:length] == was["history"] == then["history"][:length]
        for line, line_then in zip(trial["history"], then["history"], strict=True):
            assert line.keys() == line_then.keys()
            assert line["val_accuracy"] == pytest.approx(line_then["val_accuracy"], abs=0.1)
        for key in ("params", "state", "stage", "reason", "seed"):
            assert trial.get(key) == then.get(key)
    assert after["ensemble"]["members"]
    built = json.loads(
        scattershot("ensemble", "build", old, "--size", "2", "--method", "top", "--json").stdout
    )
    assert sum(member["weight"] for member in built["members"]) == 2
