import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from scattershot_common.errors import ScattershotError
from scattershot_common.store.checkpoint_names import checkpoint_name
from scattershot_common.store.open_store import open_store
from scattershot_master.ensemble import build_ensemble as building
from scattershot_master.ensemble.build_ensemble import build_ensemble
from scattershot_master.ensemble.metrics import Array, fitting_metric
from scattershot_master.state.study_state import StudyState
from support import checkpoints
from support.checkpoints import trial_folder
from support.pretend_master import study_file
from support.synthetic_study import event

TARGETS = np.array([0, 1, 2, 0, 1, 2])
RIGHT = np.eye(3)[TARGETS] * 0.8 + 0.1
WRONG = np.roll(RIGHT, 1, axis=1)


def mixed(wrong: str) -> Array:
    """Return predictions that are wrong where the text has an x."""
    return np.array([(WRONG if c == "x" else RIGHT)[i] for i, c in enumerate(wrong)], np.float32)


class Study:
    """A study in a folder, whose trials' checkpoints are written by hand."""

    def __init__(self, folder: Path, metric: str = "val_accuracy", task: str = "digits") -> None:
        self.folder = folder
        self.state = StudyState()
        study = study_file(study={"name": "built", "task": task, "metric": metric})
        dumped = study.model_dump(mode="json", by_alias=True)
        self.apply("study", study=dumped, uid="u")
        self.apply("stage", stage="coarse", index=0, target=99, box=[])

    def apply(self, kind: str, **fields: Any) -> None:
        self.state.apply(event(kind, at=1.0, **fields))

    def trial(self, value: float, **tensors: Array) -> Path:
        """Add a trial whose best epoch had `value` and left a checkpoint with these tensors."""
        number = len(self.state.trials)
        name = checkpoint_name(self.state.objective.metric, value, number, 1)
        path = trial_folder(self.folder, number) / name
        header = {"trial": number, "epoch": 1, "state": {}}
        data = safetensors.numpy.save(tensors, checkpoints.metadata(header))
        checkpoints.write(path, checkpoints.seal(data), sync=False)
        self.apply("sampled", t=number, p={"lr": number / 10}, epochs=1, until=1)
        self.apply("report", t=number, a=1, n=1, m={self.state.objective.metric: value}, f=name)
        return path

    def predicting(self, wrong: str) -> Path:
        right = mixed(wrong)
        value = float((right.argmax(1) == TARGETS[: len(wrong)]).mean())
        return self.trial(value, predictions=right, targets=TARGETS[: len(wrong)])

    def build(self, size: int = 3, method: str = "greedy") -> dict[str, Any]:
        return build_ensemble(self.state, self.folder, size=size, method=method)


def members(result: dict[str, Any]) -> dict[int, int]:
    return {member["trial"]: member["weight"] for member in result["members"]}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


# ---- choosing


def test_models_that_err_in_different_places_are_better_together(study: Study) -> None:
    for wrong in ("xx....", "..xx..", "....xx", "xxxxxx"):
        study.predicting(wrong)
    result = study.build()
    assert members(result) == {0: 1, 1: 1, 2: 1}
    assert result["validation"]["best_single"] == pytest.approx(4 / 6)
    assert result["validation"]["best_single_trial"] == 0
    assert result["validation"]["ensemble"] == 1.0
    assert (result["method"], result["score_name"]) == ("greedy", "accuracy")
    assert (result["test"], result["note"]) == (None, "")
    first = result["members"][0]
    assert first["checkpoint"] == study.state.trials[0].best_checkpoint
    assert (first["epoch"], first["value"]) == (1, pytest.approx(4 / 6))
    assert all(member["gain"] > 0 for member in result["members"])
    json.dumps(result, allow_nan=False)


def test_the_best_few_are_taken_by_the_plain_method(study: Study) -> None:
    for wrong in ("xxx...", "......", "xx....", "x....."):
        study.predicting(wrong)
    assert members(study.build(2, "top")) == {1: 1, 3: 1}


def test_the_metric_of_the_study_decides_where_it_is_known(tmp_path: Path) -> None:
    study = Study(tmp_path, metric="val_loss")
    study.trial(0.5, predictions=mixed("x....."), targets=TARGETS)
    study.trial(0.4, predictions=mixed("......"), targets=TARGETS)
    result = study.build(1)
    assert (result["score_name"], members(result)) == ("loss", {1: 1})
    assert result["validation"]["best_single_trial"] == 1
    assert result["validation"]["best_single"] == pytest.approx(-math.log(0.9), rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "classes", "name"),
    [
        ("val_accuracy", True, "accuracy"),
        ("val_f1", True, "accuracy"),
        ("val_accuracy", False, "mse"),
        ("val_mae", False, "mae"),
        ("rmse", False, "rmse"),
        ("val_mse", True, "accuracy"),
        ("my_score", False, "mse"),
    ],
)
def test_a_score_that_fits_the_predictions_is_found(metric: str, classes: bool, name: str) -> None:
    predictions = np.zeros((4, 3) if classes else (4,))
    assert fitting_metric(metric, predictions, np.zeros(4)) == name


@pytest.mark.parametrize(
    ("metric", "targets", "name"),
    [
        ("val_accuracy", np.array([0, 1, 1, 0]), "accuracy"),
        ("val_accuracy", np.array([False, True, True, False]), "accuracy"),
        ("val_accuracy", np.array([-1, 1, 1, -1]), "accuracy"),
        ("val_accuracy", np.array([0.0, 1.0, 1.0, 0.0]), "accuracy"),
        ("val_loss", np.array([0, 1, 1, 0]), "loss"),
        ("val_rmse", np.array([0, 1, 1, 0]), "rmse"),
        ("val_loss", np.array([0.0, 1.0, 1.0, 0.0]), "mse"),
        ("val_loss", np.array([0, 3, 7, 1]), "mse"),
    ],
)
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_prediction_for_each_target_is_a_probability_or_a_value(
    tmp_path: Path, metric: str, targets: Array, name: str, shape: tuple[int, ...]
) -> None:
    study = Study(tmp_path, metric=metric)
    right = np.where(targets > 0, 0.9, 0.2).astype(np.float32).reshape(shape)
    study.trial(0.5, predictions=1 - right, targets=targets)
    study.trial(0.6, predictions=right, targets=targets)
    result = study.build(1)
    assert (result["score_name"], members(result)) == (name, {1: 1})
    if name in ("accuracy", "loss"):
        expected = {"accuracy": 1.0, "loss": -math.log(0.9 * 0.8) / 2}[name]
        assert result["validation"]["ensemble"] == pytest.approx(expected, rel=1e-5)


def test_classes_may_be_the_second_axis_and_some_targets_left_out(study: Study) -> None:
    targets = np.array([[0, 1, 2, 0, -100], [2, 2, -100, 1, 0]])
    sure = np.moveaxis(np.eye(3)[np.maximum(targets, 0)], -1, 1).astype(np.float32)
    study.trial(0.9, predictions=np.ascontiguousarray(sure), targets=targets)
    result = study.build(1)
    assert (result["score_name"], result["validation"]["ensemble"]) == ("accuracy", 1.0)


def test_soft_labels_are_of_the_class_that_has_most(study: Study) -> None:
    study.trial(0.9, predictions=mixed("x....."), targets=mixed("......") / 1.1)
    result = study.build(1)
    assert result["score_name"] == "accuracy"
    assert result["validation"]["ensemble"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        (mixed("......"), TARGETS + 1, "targets from 1 to 3 .* 3 classes predicted, 0 to 2: count"),
        (mixed("......"), TARGETS - 1, "targets from -1 to 1 .* give -100 to those to be left out"),
        (mixed("......"), TARGETS / 2, "override predictions"),
        (mixed("......"), np.full(6, -100), "all targets are -100"),
        (np.linspace(-3, 3, 6, dtype=np.float32), TARGETS > 1, "by outputs.sigmoid"),
        (np.zeros((6, 4, 4, 2), np.float32), np.zeros((6, 3, 3), int), "one axis more, the class"),
    ],
)
def test_where_no_score_fits_there_is_no_ensemble_and_the_line_says_what_to_do(
    study: Study, predictions: Array, targets: Array, message: str
) -> None:
    study.trial(0.9, predictions=predictions, targets=targets)
    with pytest.raises(ScattershotError, match="no ensemble: .*" + message):
        study.build()


# ---- who is left out


def test_a_damaged_checkpoint_is_skipped_with_a_note(study: Study) -> None:
    path = study.predicting("......")
    study.predicting("x.....")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = study.build()
    assert members(result) == {1: 1}
    assert f"{path} is damaged" in result["note"]


def test_a_checkpoint_whose_name_is_none_is_skipped_with_a_note(study: Study) -> None:
    study.predicting("......")
    study.predicting("x.....")
    study.state.trials[0].best_checkpoint = "../../../etc/passwd"
    result = study.build()
    assert members(result) == {1: 1}
    assert "refused '../../../etc/passwd'" in result["note"]


def test_a_removed_checkpoint_is_skipped(study: Study) -> None:
    study.predicting("......").unlink()
    study.predicting("x.....")
    assert members(study.build()) == {1: 1}


def test_trials_validated_on_other_data_are_left_out_with_a_note(study: Study) -> None:
    study.predicting("......")
    study.trial(0.9, predictions=mixed("x....."), targets=TARGETS[::-1].copy())
    study.trial(0.8, predictions=mixed("x...."), targets=TARGETS[:5])
    result = study.build()
    assert members(result) == {0: 1}
    assert result["note"] == (
        "trial 1 was validated on other data: left out; "
        "trial 2 was validated on other data: left out"
    )


def test_trials_that_predict_in_another_shape_are_left_out_with_a_note(study: Study) -> None:
    study.predicting("......")
    study.trial(0.9, predictions=np.full((6, 4), 0.25, np.float32), targets=TARGETS)
    result = study.build()
    assert (members(result), result["note"]) == (
        {0: 1},
        "trial 1 predicts in another shape: left out",
    )


@pytest.mark.parametrize("metric", ["val_accuracy", "val_mse"])
def test_predictions_that_are_no_numbers_are_never_the_best(tmp_path: Path, metric: str) -> None:
    study = Study(tmp_path, metric=metric)
    good, bad = (
        (mixed("x....."), mixed("......"))
        if metric == "val_accuracy"
        else (
            np.array([1.0, 2.0]),
            np.array([1.5, 2.0]),
        )
    )
    targets = TARGETS if metric == "val_accuracy" else np.array([1.5, 2.0])
    bad[0] = np.nan
    study.trial(0.9, predictions=bad, targets=targets)
    study.trial(0.8, predictions=good, targets=targets)
    result = study.build()
    assert members(result) == {1: 1}
    assert result["validation"]["best_single_trial"] == 1
    assert math.isfinite(result["validation"]["best_single"])
    assert result["note"] == "trial 0 left out: its predictions are not finite"


def test_weights_of_whatever_type_are_not_looked_at(study: Study) -> None:
    path = study.predicting("......")
    header = json.dumps(
        {
            "__metadata__": checkpoints.metadata({"trial": 0, "state": {}}),
            "model/w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
            "predictions": {"dtype": "F32", "shape": [6, 3], "data_offsets": [4, 76]},
            "targets": {"dtype": "I64", "shape": [6], "data_offsets": [76, 124]},
        },
        separators=(",", ":"),
    ).encode()
    header += b" " * (-len(header) % 8)
    body = b"\0" * 4 + mixed("......").tobytes() + TARGETS.tobytes()
    path.write_bytes(checkpoints.seal(len(header).to_bytes(8, "little") + header + body))
    assert members(study.build()) == {0: 1}


@pytest.mark.parametrize("tensors", [{}, {"predictions": mixed("......")}, {"targets": TARGETS}])
def test_without_predictions_there_is_no_ensemble_and_the_error_says_how_to_give_them(
    study: Study, tensors: dict[str, Array]
) -> None:
    study.trial(0.9, **tensors)
    with pytest.raises(ScattershotError, match=r"trial.report\(..., predictions=, targets=\)"):
        study.build()


def test_where_every_checkpoint_is_damaged_the_error_says_so(study: Study) -> None:
    study.predicting("......").write_bytes(b"torn")
    with pytest.raises(ScattershotError, match=r"no ensemble: .* is damaged"):
        study.build()


def test_trials_without_a_value_are_not_even_looked_at(study: Study) -> None:
    study.predicting("......")
    study.apply("sampled", t=1, p={}, epochs=1, until=1)
    assert members(study.build()) == {0: 1}


def test_only_the_best_are_read(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "CANDIDATES", 2)
    paths = [study.predicting(wrong) for wrong in ("xxx...", "......", "x.....")]
    paths[0].write_bytes(b"torn")
    assert study.build()["note"] == ""


# ---- the test part, once


Answering = Callable[[str], None]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Stand in for the worker's process: it prints, and leaves predictions of two members."""

    def answer(text: str) -> None:
        def run(command: list[str], *, input: str, **_: Any) -> subprocess.CompletedProcess[str]:
            assert command[1:] == ["-P", "-m", "scattershot_worker.evaluate"]
            request = json.loads(input)
            predicted = {
                "predictions/0": mixed("x....."),
                "predictions/1": mixed("...xx."),
                "predictions/2": mixed("....xx"),
                "targets": TARGETS,
            }
            asked = [f"predictions/{model['trial']}" for model in request["models"]]
            arrays = {name: predicted[name] for name in [*asked, "targets"]}
            data = safetensors.numpy.save(arrays, checkpoints.metadata({"trials": []}))
            checkpoints.write(Path(request["out"]), checkpoints.seal(data), sync=False)
            requests.append(request)
            return subprocess.CompletedProcess(command, 1, text, "Traceback\nKilled")

        monkeypatch.setattr(subprocess, "run", run)

    requests: list[dict[str, Any]] = []
    answer.requests = requests  # type: ignore[attr-defined]
    return answer


def look(study: Study, ensemble: dict[str, Any], **more: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"data": None, "paths": [study.folder], "threads": 1, **more}
    return building.evaluate_on_test_part(study.state, study.folder, ensemble, **about)


def test_the_ensemble_and_the_best_single_model_are_tested_once(
    study: Study, answering: Answering
) -> None:
    for wrong in ("xx....", "..xx..", "....xx"):
        study.predicting(wrong)
    answering('loading\n{"ok": true}\n')
    ensemble = {
        "members": [{"trial": 1, "weight": 1}, {"trial": 2, "weight": 3}],
        "validation": {"best_single_trial": 0},
        "score_name": "accuracy",
        "test": None,
        "note": "kept",
    }
    result = look(study, ensemble, data="/data", threads=3)
    assert result["test"] == {
        "best_single": pytest.approx(5 / 6),
        "best_single_trial": 0,
        "ensemble": pytest.approx(4 / 6),  # trial 2 outvotes trial 1
        "examples": 6,
    }
    assert result["note"] == "kept"
    (request,) = answering.requests  # type: ignore[attr-defined]
    assert [model["trial"] for model in request["models"]] == [1, 2, 0]
    assert request["models"][1]["params"] == {"lr": 0.2}
    assert open_store(request["store"]).exists(request["models"][1]["checkpoint"])
    assert (request["data"], request["threads"], request["task"]) == ("/data", 3, "digits")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"error": "there is no test part"}', "not tested: there is no test part"),
        ("", "not tested: Killed"),
        ("not json", "not tested: Killed"),
        ("17", "not tested: Killed"),
    ],
)
def test_a_test_that_does_not_come_about_is_a_note(
    study: Study, answering: Answering, text: str, message: str
) -> None:
    study.predicting("......")
    ensemble = study.build()
    answering(text)
    result = look(study, {**ensemble, "note": "first"})
    assert (result["test"], result["note"]) == (None, f"first; {message}")


def test_without_torch_the_note_says_where_to_test(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.predicting("......")
    ensemble = study.build()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = look(study, ensemble)
    assert result["test"] is None
    assert result["note"].startswith("not tested: torch is not installed where the master runs")


OWN = """
import scattershot as ss
import torch

def train(trial):
    raise AssertionError("never called")

class Flowers(ss.Task):
    def data(self):
        print("loading")
        part = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
        return ss.Data(train=part, val=part)

    def model(self, params):
        return torch.nn.Linear(2, 3)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train", "a train function has no test part; bring a task class for that"),
        ("Flowers", "Flowers.data() gives no test part"),
    ],
)
def test_a_task_without_a_test_part_is_not_tested(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "flowers.py").write_text(OWN)
    study = Study(tmp_path, task=f"flowers:{name}")
    study.predicting("......")
    result = look(study, study.build())
    assert (result["test"], result["note"]) == (None, f"not tested: {message}")
