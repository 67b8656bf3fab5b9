import math
import random
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattershot_common.study.recorded_settings import StudySettings
from scattershot_master.state.progress import finite, ranked
from scattershot_master.state.study_state import StudyState, TrialRecord
from support.pretend_master import study_file


def board_of(values: list[float], goal: Literal["maximize", "minimize"] = "maximize") -> StudyState:
    """Return a study's state whose trial i has the best value `values[i]`."""
    study = study_file(study={"name": "ranked", "task": "digits", "goal": goal})
    state = StudyState(StudySettings(study.model_dump(mode="json", by_alias=True)))
    numbers = list(range(len(values)))
    random.Random(0).shuffle(numbers)  # the order of sampling must not matter
    for number in numbers:
        trial = TrialRecord(number, "coarse", {}, 0, 1, 1, best_value=values[number])
        state.trials[number] = trial
    return state


def numbers(trials: list[TrialRecord]) -> list[int]:
    return [trial.number for trial in trials]


def test_the_best_comes_first_ties_by_number_and_what_is_no_number_last() -> None:
    state = board_of([0.5, math.nan, 0.9, math.inf, 0.5, -math.inf, 0.7])
    assert numbers(ranked(state)) == [2, 6, 0, 4, 1, 3, 5]
    assert numbers(finite(state)) == [2, 6, 0, 4]


def test_a_smaller_value_is_better_when_the_goal_is_to_minimize() -> None:
    state = board_of([0.5, math.nan, 0.9, -math.inf, 0.1], "minimize")
    assert numbers(ranked(state)) == [4, 0, 2, 1, 3]


def test_some_trials_can_be_ranked_by_themselves() -> None:
    state = board_of([0.5, 0.6, 0.7])
    assert numbers(ranked(state, [state.trials[0], state.trials[1]])) == [1, 0]
    assert ranked(state, []) == finite(state, []) == []


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@settings(deadline=None)
@given(values=st.lists(st.floats()))
def test_every_trial_has_one_place_and_no_value_stands_below_a_worse_one(
    goal: Literal["maximize", "minimize"], values: list[float]
) -> None:
    state = board_of(values, goal)
    order = ranked(state)
    assert sorted(numbers(order)) == sorted(state.trials)
    good = finite(state)
    assert order[: len(good)] == good
    assert all(math.isfinite(trial.best_value) for trial in good)
    assert not any(math.isfinite(trial.best_value) for trial in order[len(good) :])
    for better, worse in pairwise(good):
        key = [(-state.objective.sign * one.best_value, one.number) for one in (better, worse)]
        assert key[0] < key[1]
