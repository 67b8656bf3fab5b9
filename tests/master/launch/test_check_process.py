from __future__ import annotations

from pathlib import Path

import pytest

from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_common.space.space import Space
from scattershot_common.study.settings import StudyFile
from scattershot_common.study.study_file import parse
from scattershot_common.task.check_result import CheckResult
from scattershot_master.commands.check import save_results
from scattershot_master.launch.check_process import middle, read_params, run_checks

SPACE = Space.parse(
    {
        "lr": {"loguniform": [1e-4, 1.0]},
        "optimizer": {"choice": ["sgd", "adamw"]},
        "momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": "sgd"}},
        "batch_size": 32,
    }
)


def test_the_middle_of_the_space_is_taken() -> None:
    params = middle(SPACE, {})
    assert params == {"lr": pytest.approx(0.01), "optimizer": "adamw", "batch_size": 32}


def test_a_given_value_brings_the_hyperparameters_that_hang_on_it() -> None:
    params = middle(SPACE, {"optimizer": "sgd", "batch_size": 8})
    assert [*params] == ["lr", "optimizer", "momentum", "batch_size"]
    assert params["momentum"] == pytest.approx(0.7) and params["batch_size"] == 8


def test_a_given_value_may_lie_outside_the_space() -> None:
    assert middle(SPACE, {"lr": 30.0, "optimizer": "lion"})["optimizer"] == "lion"
    assert middle(SPACE, {"lr": 30.0})["lr"] == 30.0


def test_a_hyperparameter_that_the_space_does_not_have_is_told() -> None:
    with pytest.raises(StudyFileError, match='did you mean "momentum"'):
        middle(SPACE, {"momentun": 1})


@pytest.mark.parametrize("text", ["hidden", "=3", "hidden=", "hidden=[1, 2]", "lr=nan", "lr=inf"])
def test_a_flag_that_is_no_hyperparameter_is_told(text: str) -> None:
    with pytest.raises(StudyFileError, match="--param"):
        read_params([text])


def study(task: str = "digits") -> StudyFile:
    return parse(
        f'[study]\nname = "s"\ntask = "{task}"\n[space]\nlr = 0.1\n'
        '[[stage]]\nname = "a"\ntrials = 1\nepochs = 1\n',
        folder=Path.cwd(),
    )


def test_a_process_that_dies_is_told_with_its_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying.py").write_text("import os, sys\nprint('goodbye')\nos._exit(3)\n")
    monkeypatch.chdir(tmp_path)
    dying = study().model_copy(
        update={"study": study().study.model_copy(update={"task": "dying:T"})}
    )
    results = run_checks(dying, {}, only=[], device="cpu", data=None, paths=[tmp_path])
    with pytest.raises(ScattershotError, match="the process that checks has ended"):
        list(results)


def test_without_torch_the_master_says_where_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ScattershotError, match="torch is not installed here"):
        list(run_checks(study(), {}, only=[], device="cpu", data=None, paths=[]))


def test_the_plot_lies_beside_the_results(tmp_path: Path) -> None:
    numbers = {"rates": [1e-3, 1e-2, 1e-1], "losses": [2.0, 1.0, 9.0], "smoothed": [2.0, 1.0, 2.0]}
    plain = CheckResult("rates", "warn", "flat", "Flat.", numbers=numbers)
    folder = tmp_path / "s.check"
    assert save_results([plain], {}, folder / "check.json") == folder / "learning-rates.svg"
    told = {**numbers, "steepest": 5e-3, "largest_safe": 0.05, "suggested": [1e-3, 0.05]}
    file = tmp_path / "check.json"
    save_results([CheckResult("rates", "pass", "", "", numbers=told)], {}, file)
    assert "largest safe 0.05" in (tmp_path / "learning-rates.svg").read_text()
    assert file.exists()
    assert save_results([], {}, tmp_path / "none" / "check.json") is None
