import math

import pytest

from scattershot_common.objective import Objective

ACCURACY, LOSS = Objective("val_accuracy"), Objective("val_loss", "minimize")


@pytest.mark.parametrize(
    ("objective", "value", "than", "better"),
    [
        (ACCURACY, 0.9, 0.8, True),
        (ACCURACY, 0.8, 0.8, False),
        (LOSS, 0.8, 0.9, True),
        (LOSS, 0.9, 0.8, False),
        (LOSS, 5.0, math.nan, True),
        (ACCURACY, math.nan, -5.0, False),
        (ACCURACY, math.inf, 0.1, False),
    ],
)
def test_which_of_two_values_is_better(
    objective: Objective, value: float, than: float, better: bool
) -> None:
    assert objective.better(value, than) is better


def test_the_best_of_values_passes_over_those_that_are_not_finite() -> None:
    values = [0.3, math.nan, -math.inf, 0.7, math.inf]
    assert ACCURACY.best(values) == 0.7
    assert LOSS.best(values) == 0.3
    assert math.isnan(LOSS.best([math.nan, math.inf]))
    assert math.isnan(ACCURACY.best([]))


def test_a_score_is_larger_where_a_value_is_better_and_turns_back() -> None:
    assert LOSS.score(0.2) > LOSS.score(0.3)
    assert LOSS.score(LOSS.score(0.2)) == 0.2
    assert (ACCURACY.sign, LOSS.sign) == (1, -1)


def test_a_metric_that_was_not_reported_is_nan() -> None:
    assert LOSS.of({"val_loss": 0.5}) == 0.5
    assert math.isnan(LOSS.of({"val_accuracy": 0.5}))
