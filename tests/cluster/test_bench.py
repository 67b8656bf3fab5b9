"""The benchmarks still run: each in a small form, whose figures say nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What makes each benchmark small.
SMALL = {
    "looking": "b.RUNS, b.TRIALS = 1, 20",
    "waiting": "b.RUNS, b.TRIALS = 1, 300",
    "kill_latency": "b.KILLS = 2",
    "reports": "b.WORKERS, b.SECONDS = 40, 5",
    "monitors": "b._CASES = {'MLP': (b._Alone, b._MLP, 2, 2), 'lanes': (b._Pack, b._MLP, 2, 2)}",
    "orchestration": "b.ROUNDS, b.FEW, b.MANY = 1, 20, 40",
    "overhead": "b.ROUNDS, b.TRIALS = 1, 4",
    "fused": "b.ROUNDS, b.overhead.TRIALS, b._EXAMPLES = 2, 8, 256;"
    " b._large = lambda: [b._as_planned('MLP', b._Pictures(flat=True), 128)]",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_and_shows_its_figures(name: str) -> None:
    if name in ("orchestration", "overhead", "fused"):
        pytest.importorskip("optuna")
    program = f"import bench.{name} as b; {SMALL[name]}; b.harness.show(b.measure())"
    if name == "monitors":
        program = program.replace("b.harness.", "from bench import harness; harness.")
    done = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n  {program}"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-2:], "a head and its figures"
    assert "figure" in done.stdout and "target" in done.stdout
