from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattershot_common.errors import ScattershotError
from scattershot_master.ensemble import METHODS
from scattershot_master.ensemble.greedy import greedy
from scattershot_master.ensemble.metrics import METRICS, metric, score
from scattershot_master.ensemble.top import top

METHOD_NAMES = sorted(METHODS)


def sure_of(*chances: float) -> Any:
    """Two-class probabilities [N, 2] that give class 0 these chances."""
    return np.array([[chance, 1 - chance] for chance in chances])


def zeros(n: int) -> Any:
    return np.zeros(n, dtype=np.int64)


# metrics


def test_scores_are_what_one_computes_by_hand() -> None:
    chances = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    assert score("accuracy", chances, np.array([0, 2, 1])) == pytest.approx(2 / 3)
    assert score("loss", chances, np.array([0, 2, 1])) == pytest.approx(
        -(np.log(0.5) + np.log(0.7) + np.log(0.3)) / 3
    )
    values, targets = np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 4.0, 3.0])
    assert score("mse", values, targets) == pytest.approx(5 / 3)
    assert score("rmse", values, targets) == pytest.approx((5 / 3) ** 0.5)
    assert score("mae", values, targets) == 1.0


def test_a_sure_mistake_costs_much_but_not_infinity() -> None:
    assert score("loss", sure_of(0.0), zeros(1)) == pytest.approx(-np.log(1e-12))


def test_a_metric_says_which_way_is_better() -> None:
    maximized = {name for name in METRICS if metric(name).objective.goal == "maximize"}
    assert maximized == {"accuracy"}


def test_dense_predictions_are_scored_too() -> None:
    chances = np.random.default_rng(0).dirichlet(np.ones(3), size=(4, 5))
    classes = chances.argmax(-1)
    assert score("accuracy", chances, classes) == 1.0
    assert score("loss", chances, classes) == pytest.approx(-np.log(chances.max(-1)).mean())


@pytest.mark.parametrize(
    ("name", "shape", "targets"),
    [("accuracy", (4, 3), (5,)), ("loss", (4,), (4,)), ("mse", (4, 2), (4,)), ("mae", (0,), (0,))],
)
def test_shapes_that_do_not_fit_are_refused(
    name: str, shape: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    with pytest.raises(ScattershotError, match="do not fit targets"):
        score(name, np.zeros(shape), np.zeros(targets, dtype=int))


def test_an_unknown_metric_is_refused_with_the_list() -> None:
    with pytest.raises(ScattershotError, match="'f1'; there are accuracy, loss, mse, mae, rmse"):
        score("f1", sure_of(1.0), zeros(1))


# top


def test_top_averages_the_best_single_models_each_once() -> None:
    pool = {
        3: sure_of(0.9, 0.9, 0.4, 0.4),
        5: sure_of(0.1, 0.2, 0.9, 0.1),
        8: sure_of(0.6, 0.3, 0.7, 0.8),
    }
    selection = top(pool, zeros(4), "accuracy", 2)
    assert selection.order == (8, 3)
    assert selection.members == {8: 1, 3: 1}
    assert selection.scores == (0.75, 1.0)
    assert selection.score == 1.0
    assert selection.gains == {8: 0.5, 3: 0.25}


def test_top_takes_all_where_there_are_fewer_and_breaks_ties_by_number() -> None:
    alike = sure_of(0.9, 0.1)
    assert top({9: alike, 2: alike, 4: alike}, zeros(2), "accuracy", 2).order == (2, 4)
    assert top({9: alike}, zeros(2), "accuracy", 5).order == (9,)


# greedy


def test_greedy_takes_the_model_that_helps_and_not_the_next_best() -> None:
    pool = {
        0: sure_of(0.9, 0.9, 0.9, 0.45),  # 3 of 4
        1: sure_of(0.8, 0.9, 0.9, 0.45),  # 3 of 4, the same mistake
        2: sure_of(0.2, 0.2, 0.6, 0.9),  # 2 of 4, but right where the others are wrong
    }
    selection = greedy(pool, zeros(4), "accuracy", 2)
    assert selection.members == {0: 1, 2: 1}
    assert selection.score == 1.0
    assert selection.scores == (0.75, 1.0)
    assert selection.gains == {0: 0.5, 2: 0.25}


def test_a_model_that_helps_may_enter_again() -> None:
    pool = {0: np.array([3.0]), 1: np.array([-6.0])}
    selection = greedy(pool, np.array([0.0]), "mse", 6)
    assert selection.members == {0: 2, 1: 1}
    assert selection.score == 0.0
    assert selection.scores[:3] == (9.0, 2.25, 0.0)


def test_the_best_set_seen_is_returned_where_later_steps_are_worse() -> None:
    pool = {0: np.array([1.0]), 1: np.array([-1.0]), 2: np.array([5.0])}
    selection = greedy(pool, np.array([0.0]), "mse", 5)
    assert selection.order == (0, 1)
    assert len(selection.scores) == 5
    assert selection.scores[2] > selection.scores[1] == selection.score == 0.0


def test_the_start_is_as_many_of_the_best_as_score_best_together() -> None:
    pool = {0: np.array([1.0]), 1: np.array([-1.5]), 2: np.array([2.0]), 3: np.array([2.5])}
    targets = np.array([0.0])
    assert greedy(pool, targets, "mse", 3).order[:2] == (0, 1)
    # begun with the best alone, the same is found by choice
    assert greedy(pool, targets, "mse", 3, start=1).order[:2] == (0, 1)
    # three models that are only good together: no single step from the best leads there
    trio = {0: np.array([2.0, 2.0]), 1: np.array([-5.0, 1.0]), 2: np.array([3.0, -4.5])}
    start = greedy(trio, np.zeros(2), "mse", 3)
    assert start.score <= greedy(trio, np.zeros(2), "mse", 3, start=1).score


def test_of_sets_that_score_alike_the_smallest_is_returned() -> None:
    alike = sure_of(0.9, 0.8, 0.1)
    selection = greedy({4: alike, 2: alike.copy()}, zeros(3), "accuracy", 5)
    assert selection.members == {2: 1}
    assert selection.gains == {2: 0.0}


def test_the_order_in_which_predictions_are_given_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    pool = {trial: rng.dirichlet(np.ones(3), size=30) for trial in range(8)}
    targets = rng.integers(0, 3, 30)
    turned = dict(reversed(pool.items()))
    for method in METHODS.values():
        assert method(pool, targets, "accuracy", 6) == method(turned, targets, "accuracy", 6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(METRICS)), st.integers(1, 8))
def test_greedy_is_never_worse_than_the_best_single_model(seed: int, name: str, size: int) -> None:
    rng = np.random.default_rng(seed)
    pool = {trial: rng.dirichlet(np.ones(3), size=12).astype("f4") for trial in range(6)}
    targets = rng.integers(0, 3, 12) if metric(name).classes else rng.random((12, 3))
    selection = greedy(pool, targets, name, size)
    objective = metric(name).objective
    singles = [score(name, array.astype("f8"), targets) for array in pool.values()]
    assert not objective.better(objective.best(singles), selection.score)
    assert selection.score == objective.best(selection.scores)
    # the selection is what its weights say
    weights = sum(selection.members.values())
    mean = sum(n * pool[trial].astype("f8") for trial, n in selection.members.items()) / weights
    assert weights == len(selection.order) <= size
    assert score(name, np.asarray(mean), targets) == pytest.approx(selection.score)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(METHOD_NAMES))
def test_a_gain_is_the_score_less_that_of_the_others(seed: int, method: str) -> None:
    rng = np.random.default_rng(seed)
    pool = {trial: rng.normal(size=9) for trial in range(5)}
    targets = rng.normal(size=9) / 4
    selection = METHODS[method](pool, targets, "mse", 6)
    for member in selection.members:
        rest = [pool[trial] for trial in selection.order if trial != member]
        if rest:
            without = score("mse", np.mean(rest, axis=0), targets)
            assert selection.gains[member] == pytest.approx(without - selection.score)


# both


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_not_finite_are_left_out_with_a_note(
    method: str, broken: float
) -> None:
    pool = {1: sure_of(0.9, 0.4), 6: sure_of(0.9, broken), 7: sure_of(0.3, 0.9)}
    selection = METHODS[method](pool, zeros(2), "accuracy", 3)
    assert set(selection.members) == {1, 7}
    assert selection.notes == ("trial 6 left out: its predictions are not finite",)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_an_ensemble_of_nobody_is_refused(method: str) -> None:
    with pytest.raises(ScattershotError, match="of 1 trials none has finite predictions"):
        METHODS[method]({1: sure_of(np.nan)}, zeros(1), "accuracy", 3)
    with pytest.raises(ScattershotError, match="of 0 trials"):
        METHODS[method]({}, zeros(1), "accuracy", 3)
    with pytest.raises(ScattershotError, match="size = 0"):
        METHODS[method]({1: sure_of(1.0)}, zeros(1), "accuracy", 0)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_predictions_given_are_not_changed(method: str) -> None:
    pool = {1: sure_of(0.9, 0.4).astype("f4"), 2: sure_of(0.2, 0.9)}
    before = {trial: array.copy() for trial, array in pool.items()}
    METHODS[method](pool, zeros(2), "loss", 4)
    assert all((pool[trial] == before[trial]).all() for trial in pool)
    assert [array.dtype for array in pool.values()] == [np.float32, np.float64]


def test_equal_accuracies_are_told_apart_by_the_loss() -> None:
    targets = np.array([0, 1])
    unsure = np.array([[0.55, 0.45], [0.45, 0.55]])
    sure = np.array([[0.95, 0.05], [0.05, 0.95]])
    assert set(greedy({0: unsure, 1: sure}, targets, "accuracy", 3, start=1).members) == {0, 1}
    assert greedy({0: unsure, 1: sure}, targets, "accuracy", 3, start=1).members[1] == 2


def test_a_sole_member_of_a_score_that_is_minimized_gains_nothing_and_not_minus_nothing() -> None:
    alone = greedy({3: np.array([[1.0], [2.0]])}, np.array([1.0, 2.5]), "rmse", 1)
    assert str(alone.gains[3]) == "0.0"
