"""Every rule on real trainings made to show what it is for, and on healthy ones."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from pathologies import HEALTHY, SICK, Run, case
from scattershot_master.diagnosis.rules import RULES
from scattershot_master.diagnosis.trials import diagnose


def _table(rows: Sequence[tuple[Run, frozenset[str]]]) -> str:
    """Return a row per training and a column per rule: X asked for and found, + also right, …"""
    names = list(RULES)
    width = max(len(one.name) for one, _ in rows)
    lines = [f"  {number:2} {name}" for number, name in enumerate(names, 1)]
    lines.append(" " * width + "".join(f"{number:4}" for number in range(1, len(names) + 1)))
    for one, found in rows:
        marks = []
        for name in names:
            asked = name in one.must
            right = name in found
            mark = "X" if asked and right else "MISS" if asked else "." if not right else "+"
            marks.append("WRONG"[:4] if mark == "+" and name not in one.may else mark)
        lines.append(one.name.ljust(width) + "".join(mark.rjust(4) for mark in marks))
    return "\n".join(lines)


def test_every_rule_sees_what_it_is_for_and_is_silent_on_healthy_trainings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker does; sums depend on it
    try:
        rows = [
            (one, frozenset(found.rule for found in diagnose(case(one)))) for one in HEALTHY + SICK
        ]
    finally:
        torch.set_num_threads(threads)
    table = _table(rows)
    with capsys.disabled():
        print(f"\nrules on real trainings: X asked for and found, + found besides\n{table}")
    assert set().union(*(one.must for one, _ in rows)) == set(RULES)
    for one, found in rows:
        assert one.must <= found <= one.must | one.may, f"{one.name}: {sorted(found)}\n{table}"
