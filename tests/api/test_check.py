from __future__ import annotations

import subprocess
import sys

import pytest

import scattershot as ss
from support.checked_tasks import PARAMS, Blobs


def test_results_are_printed_as_they_come_and_returned(capsys: pytest.CaptureFixture[str]) -> None:
    results = ss.check(Blobs(), PARAMS, only=["overfit", "initial_loss"])
    assert [result.name for result in results] == ["initial_loss", "overfit"]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("pass     initial_loss    loss 1.")
    assert "accuracy 100%" in printed[2]


def test_a_task_can_be_named_as_in_a_study_file() -> None:
    (result,) = ss.check("digits", only=["initial_loss"], quiet=True)
    assert "ln 10" in result.found


def test_an_unknown_check_is_an_error_before_anything_runs() -> None:
    with pytest.raises(ValueError, match="there is no check 'lr'"):
        ss.check("nowhere:Nothing", only=["lr"])


def test_without_the_worker_the_error_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['scattershot_worker'] = None\n"
        "import scattershot as ss\n"
        "try: ss.check('digits')\n"
        "except ss.ScattershotError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install scattershot" in done.stdout, done.stderr
