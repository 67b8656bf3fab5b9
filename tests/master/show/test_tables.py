import copy
import math
from pathlib import Path
from typing import Any

import pytest

from scattershot_master.show import tables
from scattershot_master.show.layout import plain_text, table_lines
from scattershot_master.show.study_page import final, status
from scattershot_master.state import progress
from scattershot_master.state.border_warnings import BorderWarning, border_warnings
from scattershot_master.state.progress import finite
from scattershot_master.state.study_state import StudyState
from support.synthetic_study import Simulation


@pytest.fixture(scope="module")
def state() -> StudyState:
    return Simulation().run()


@pytest.fixture
def own_board(state: StudyState) -> StudyState:
    return copy.deepcopy(state)


def words_of(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_leaderboard_is_sorted_and_has_every_searched_hyperparameter(state: StudyState) -> None:
    titles, *rows = words_of(plain_text(tables.top(state, 10)))
    assert titles == [
        *("#", "trial", "state", "stage", "epochs", "val_accuracy", "lr", "weight_decay"),
        *("dropout", "hidden", "optimizer", "momentum"),
    ]
    best = finite(state)[:10]
    assert [row[1] for row in rows[:10]] == [str(trial.number) for trial in best]
    assert [row[5] for row in rows[:10]] == [f"{trial.best_value:.4f}" for trial in best]
    assert [row[6] for row in rows[:10]] == [f"{trial.params['lr']:.1e}" for trial in best]


def test_a_hyperparameter_that_a_trial_lacks_is_a_dash(state: StudyState) -> None:
    rows = words_of(plain_text(tables.top(state, 50)))[1:51]
    assert {row[-1] == "-" for row in rows if row[10] == "adamw"} == {True}
    assert {row[-1] == "-" for row in rows if row[10] == "sgd"} == {False}


def test_what_is_the_same_in_every_trial_is_said_once(state: StudyState) -> None:
    shown = plain_text(tables.top(state, 3))
    assert "in every trial: batch_size 32" in shown
    assert shown.count("batch_size") == 1


def test_trials_without_a_finite_value_are_counted_and_not_ranked(state: StudyState) -> None:
    without = sum(math.isnan(trial.best_value) for trial in state.trials.values())
    assert without > 1
    shown = plain_text(tables.top(state, 1000))
    assert f"not ranked: {without} trials without a finite value" in shown
    assert "nan" not in shown
    assert len(words_of(shown)) == 1 + len(state.trials) - without + 2


def test_in_80_columns_hyperparameters_stay_and_the_rest_is_named(state: StudyState) -> None:
    sheet = tables.leaderboard(state, finite(state)[:10])[0]
    shown = ["".join(part.text for part in parts) for parts in table_lines(sheet, 80)]  # type: ignore[arg-type]
    assert all(len(line) <= 80 for line in shown)
    assert "moment" in shown[0] and "optimi" in shown[0]
    assert shown[-1] == "+2 columns in a wider window: state, stage"


def test_a_study_without_trials_has_an_empty_leaderboard() -> None:
    simulation = Simulation()
    simulation.run(2)
    assert words_of(plain_text(tables.top(simulation.state, 10)))[1:] == [
        ["in", "every", "trial:", "batch_size", "32"]
    ]


def test_stages_show_their_counts_and_what_was_narrowed(state: StudyState) -> None:
    shown = plain_text(tables.stages(progress.stages(state)))
    rows = {row[0]: row for row in words_of(shown)}
    assert rows["coarse"][1] == "48/48"
    assert rows["final"][1] == "5/5"
    assert f"fine · {state.stages[1].notes[0]}" in shown


def test_a_failure_s_reason_stays_on_one_line() -> None:
    shown = plain_text(tables.failures([("boom\n\x1b[2J at last", [3, 4])]))
    assert shown == "2 failed: boom [2J at last (trials 3, 4)\n"


def test_the_ensemble_stands_beside_the_best_single_model(state: StudyState) -> None:
    assert state.ensemble is not None
    shown = plain_text(tables.ensemble(state.ensemble))
    rows = words_of(shown)
    single = state.ensemble["test"]["best_single_trial"]
    assert ["best", "single", "model", "(trial", f"{single})"] == rows[1][:5]
    assert rows[1][-1] == "0.9694" and rows[2][-1] == "0.9778"
    gains = [row[-1] for row in rows[5:8]]
    assert gains == ["+0.0040", "+0.0025", "+0.0010"]


def test_an_ensemble_that_was_not_tested_has_no_test_value(own_board: StudyState) -> None:
    result: dict[str, Any] = {**(own_board.ensemble or {}), "test": None, "note": "no test part"}
    shown = plain_text(tables.ensemble(result))
    assert words_of(shown)[1][-1] == "-"
    assert shown.endswith("no test part\n")


def test_an_epoch_that_lacks_a_metric_has_a_dash_in_the_history() -> None:
    lines = [{"epoch": 1, "acc": 0.5}, {"epoch": 2, "acc": math.nan, "loss": 1.5}]
    shown = words_of(plain_text([tables.history(lines, "acc", 1)]))
    assert shown == [
        ["epoch", "acc", "loss"],
        ["1", "0.5000", "-", "best"],
        ["2", "nan", "1.5000"],
    ]


# ---- border warnings


def crowded(state: StudyState, stage: int, low: float, high: float) -> None:
    """Move the lr of the stage's five best trials to between `low` and `high`."""
    drawn = [trial for trial in finite(state) if trial.number in state.stages[stage].trials]
    for trial in drawn:
        trial.params["lr"] = 1e-3
    for place, trial in enumerate(drawn[:5]):
        trial.params["lr"] = low + place / 5 * (high - low)


def lr_warnings(state: StudyState) -> list[tuple[str, BorderWarning]]:
    return [
        (warning.stage, warning.warning)
        for warning in border_warnings(state)
        if warning.warning.axis == "lr"
    ]


def test_a_stage_whose_best_crowd_at_a_border_warns(own_board: StudyState, tmp_path: Path) -> None:
    del own_board.stages[1:]
    assert not lr_warnings(own_board)
    crowded(own_board, 0, 8.0, 10.0)
    ((stage, warning),) = lr_warnings(own_board)
    assert (stage, warning.side) == ("coarse", "high")
    assert f"coarse · {warning.text}" in plain_text(final(own_board, tmp_path))


def test_a_warning_stays_while_no_later_stage_searched_beyond(own_board: StudyState) -> None:
    crowded(own_board, 0, 8.0, 10.0)
    assert [stage for stage, _ in lr_warnings(own_board)] == ["coarse"]


def test_a_stage_that_searched_beyond_the_border_answers_the_warning(own_board: StudyState) -> None:
    crowded(own_board, 0, 8.0, 10.0)
    space = own_board.settings.space
    own_board.stages[1].box = [[[0.5, 1.1]], *space.whole().to_json()[1:]]
    assert not lr_warnings(own_board)


def test_the_same_warning_is_raised_once_by_the_latest_stage(own_board: StudyState) -> None:
    own_board.stages[1].box = own_board.settings.space.whole().to_json()
    crowded(own_board, 0, 8.0, 10.0)
    crowded(own_board, 1, 8.0, 10.0)
    assert [stage for stage, _ in lr_warnings(own_board)] == ["fine"]


def test_the_status_of_a_study_that_has_just_begun_has_no_empty_parts(tmp_path: Path) -> None:
    simulation = Simulation()
    simulation.run(1)
    shown = plain_text(status(simulation.state, tmp_path, running=True, now=simulation.now))
    titles = [line for line in shown.splitlines() if " " not in line and line]
    assert titles == ["stages", "files"]
