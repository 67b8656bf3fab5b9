import csv
import io
import json
import math
from pathlib import Path

import pytest

from scattershot_common.task.metric_names import RESERVED
from scattershot_master.export.csv_format import csv_text
from scattershot_master.export.data import history_rows, trial_rows, whole_study
from scattershot_master.export.json_format import json_text
from scattershot_master.state.events import EpochReported
from scattershot_master.state.progress import ranked
from scattershot_master.state.study_state import StudyState
from support.checkpoints import trial_folder
from support.synthetic_study import Simulation

TRIAL_KEYS = [
    *("trial", "stage", "state", "reason", "params", "seed", "attempts", "worker", "epochs"),
    *("best_value", "best_epoch", "best_checkpoint", "history"),
]


@pytest.fixture(scope="module")
def state() -> StudyState:
    return Simulation().run()


def not_a_number(name: str) -> float:
    raise AssertionError(f"{name} is not strict JSON")


def test_an_export_has_the_parts_scripts_rely_on(state: StudyState, tmp_path: Path) -> None:
    data = json.loads(json_text(whole_study(state, tmp_path)), parse_constant=not_a_number)
    assert list(data) == ["study", "stages", "warnings", "trials", "ensemble"]
    assert data["study"]["name"] == "digits"
    assert [stage["name"] for stage in data["stages"]] == ["coarse", "fine", "final"]
    assert all(list(trial) == TRIAL_KEYS for trial in data["trials"])
    assert [trial["trial"] for trial in data["trials"]] == [t.number for t in ranked(state)]
    assert data["ensemble"]["members"][0]["weight"] == 3


def test_an_exported_trial_is_what_the_ledger_says(state: StudyState, tmp_path: Path) -> None:
    best = ranked(state)[0]
    trial = whole_study(state, tmp_path)["trials"][0]
    assert trial["params"] == best.params
    assert trial["epochs"] == len(trial["history"]) == 30
    assert trial["history"][0].keys() == {"epoch", "val_accuracy", "val_loss", "train_loss"}
    assert trial["best_value"] == max(line["val_accuracy"] for line in best.history)


def test_values_that_are_not_finite_are_null_in_json(state: StudyState, tmp_path: Path) -> None:
    data = json.loads(json_text(whole_study(state, tmp_path)), parse_constant=not_a_number)
    diverged = [t for t in data["trials"] if t["history"] and t["best_value"] is None]
    assert diverged
    assert diverged[0]["history"][0]["val_accuracy"] is None
    assert diverged[0]["best_epoch"] is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_every_number_that_is_not_finite_becomes_null(number: float) -> None:
    assert json_text({"a": [number, (1.5, number)]}) == '{"a": [null, [1.5, null]]}'


def test_a_checkpoint_is_named_from_the_study_s_folder_if_it_is_there(
    state: StudyState, tmp_path: Path
) -> None:
    best = ranked(state)[0]
    assert whole_study(state, tmp_path)["trials"][0]["best_checkpoint"] is None
    folder = trial_folder(tmp_path, best.number)
    folder.mkdir(parents=True)
    (folder / best.best_checkpoint).touch()
    exported = whole_study(state, tmp_path)["trials"][0]["best_checkpoint"]
    assert exported == f"trials/{best.number:05d}/{best.best_checkpoint}"


def test_csv_has_a_row_per_trial_and_a_column_per_hyperparameter(
    state: StudyState, tmp_path: Path
) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(trial_rows(state, tmp_path)))))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in ranked(state)]
    assert "params" not in rows[0] and "history" not in rows[0]
    for row, trial in zip(rows, ranked(state), strict=True):
        assert float(row["param.lr"]) == trial.params["lr"]
        assert (row["param.momentum"] == "") == ("momentum" not in trial.params)


def test_csv_of_the_history_has_a_row_per_trial_and_epoch(state: StudyState) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(history_rows(state)))))
    assert len(rows) == sum(len(trial.history) for trial in state.trials.values())
    for row in rows:
        reported = state.trials[int(row["trial"])].history[int(row["epoch"]) - 1]
        value = float(row["val_accuracy"])
        assert value == reported["val_accuracy"] or math.isnan(value)


def test_no_metric_takes_the_place_of_a_column() -> None:
    assert {*TRIAL_KEYS, "epoch"} <= {*RESERVED}
    state = Simulation().run()
    trial = next(trial for trial in state.trials.values() if trial.history)
    trial.history[0]["trial"] = 99.0  # as an earlier version let it
    assert history_rows(state)[0]["trial"] == trial.number


def test_an_epoch_has_its_own_number_whatever_earlier_versions_let_a_task_report() -> None:
    state = Simulation().run()
    trial = ranked(state)[0]
    trial.state, epoch = "running", trial.done + 1
    state.apply(EpochReported(trial.number, trial.attempts, epoch, {"epoch": 0.0}, ""))
    assert trial.done == epoch


def test_csv_quotes_what_it_must() -> None:
    text = csv_text([{"trial": 0, "reason": 'boom, "twice"\nand more'}])
    (row,) = csv.DictReader(io.StringIO(text))
    assert row["reason"] == 'boom, "twice"\nand more'


def test_csv_without_rows_still_has_its_header() -> None:
    assert csv_text([], ("trial", "epoch")) == "trial,epoch\n"
