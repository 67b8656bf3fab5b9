from __future__ import annotations

import json

import pytest

from scattershot_common.task.check_result import CHECKS, CheckResult, select_checks

RESULT = CheckResult(
    "rates", "warn", "nothing", "It is flat.", "Look.", ("a", "b"), {"losses": [1.0, float("nan")]}
)


def test_a_result_goes_through_json_but_for_numbers_that_are_none() -> None:
    text = json.dumps(RESULT.to_json(), allow_nan=False)
    back = CheckResult.from_json(json.loads(text))
    assert back.numbers == {"losses": [1.0, None]}
    assert {**vars(back), "numbers": 0} == {**vars(RESULT), "numbers": 0}


def test_checks_run_in_their_order_whatever_the_order_asked_for() -> None:
    assert select_checks(["rates", "data"]) == ("data", "rates")
    assert select_checks([]) == tuple(CHECKS)


def test_a_name_that_is_no_check_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match='did you mean "gradients"'):
        select_checks(["gradient"])
