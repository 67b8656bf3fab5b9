"""Every rule on real trainings made to show what it is for, and on healthy ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from scattershot_master.diagnosis.diagnose import diagnose
from scattershot_master.diagnosis.trial_rules import RULES
from support.pathologies import HEALTHY, SICK, Run, case

#: The thresholds were set by the first and by others, none of them by the last two.
SEEDS = [(3,), (701, 702)]


def _wrong(training: Run, found: Counter[str], seeds: int) -> dict[str, int]:
    """Return in how many trainings a rule that must fire did not, or one did that may not."""
    missed = {name: seeds - found[name] for name in training.must if found[name] < seeds}
    return missed | {
        name: found[name] for name in found if name not in training.must | training.may
    }


def _table(rows: Sequence[tuple[Run, Counter[str]]], seeds: int) -> str:
    """Return a row per training and a column per rule, with how many seeds it fired at."""
    names = list(RULES)
    width = max(len(training.name) for training, _ in rows)
    lines = [f"  {number:2} {name}" for number, name in enumerate(names, 1)]
    lines.append(" " * width + "".join(f"{number:4}" for number in range(1, len(names) + 1)))
    for training, found in rows:
        wrong = _wrong(training, found, seeds)
        cells = []
        for name in names:
            mark = "!" if name in wrong else "X" if name in training.must else "+"
            cells.append(f"{mark}{found[name]}" if found[name] or name in wrong else ".")
        lines.append(training.name.ljust(width) + "".join(cell.rjust(4) for cell in cells))
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", SEEDS)
def test_every_rule_sees_what_it_is_for_and_is_silent_on_healthy_trainings(
    capsys: pytest.CaptureFixture[str], seeds: tuple[int, ...]
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker does; sums depend on it
    try:
        rows = [
            (
                training,
                Counter(found.rule for seed in seeds for found in diagnose(case(training, seed))),
            )
            for training in HEALTHY + SICK
        ]
    finally:
        torch.set_num_threads(threads)
    table = _table(rows, len(seeds))
    with capsys.disabled():
        print(
            f"\nrules on real trainings with {len(seeds)} seeds: X asked for, + right as well, "
            f"! wrong\n{table}"
        )
    assert set().union(*(training.must for training, _ in rows)) == set(RULES)
    wrong = {
        training.name: _wrong(training, found, len(seeds))
        for training, found in rows
        if _wrong(training, found, len(seeds))
    }
    assert not wrong, f"{wrong}\n{table}"
