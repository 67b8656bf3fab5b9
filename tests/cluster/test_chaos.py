"""A short chaos run; `make chaos` is the long one."""

from pathlib import Path

import pytest

from chaos import chaos


@pytest.mark.slow
def test_a_study_under_faults_of_all_kinds_ends_as_it_does_undisturbed(tmp_path: Path) -> None:
    outcome = chaos.run(tmp_path, chaos.SHORT, seed=3)
    assert not outcome.wrong, outcome
    assert sum(outcome.faults.values()) >= chaos.SHORT.least
    assert outcome.trained >= outcome.epochs > 0
