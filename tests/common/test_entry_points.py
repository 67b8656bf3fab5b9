from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from scattershot_common.entry_points import (
    FUNCTIONS,
    PROGRAMS,
    TASKS,
    load_function,
    program,
    provided,
)
from scattershot_common.errors import ScattershotError
from scattershot_common.task.task_names import task_problem


@pytest.mark.parametrize("group", [TASKS, FUNCTIONS])
def test_every_entry_point_leads_somewhere(group: str) -> None:
    assert provided(group)
    for value in provided(group).values():
        module, _, name = value.partition(":")
        assert callable(getattr(import_module(module), name)), value


def test_every_program_is_a_module_that_can_be_run() -> None:
    assert {"worker", "evaluate", "checks"} <= {*provided(PROGRAMS)}
    for name, module in provided(PROGRAMS).items():
        assert program(name) == [sys.executable, "-P", "-m", module]
        spec = find_spec(module)
        assert spec is not None
        if spec.submodule_search_locations is not None:
            assert find_spec(f"{module}.__main__") is not None


def test_what_nothing_provides_is_told_by_name() -> None:
    with pytest.raises(ScattershotError, match=r"provides 'tea' .*: pip install scattershot"):
        program("tea")
    with pytest.raises(ScattershotError, match="provides 'brew'"):
        load_function("brew")


def test_another_package_may_provide_a_task(tmp_path: Path) -> None:
    """In a fresh interpreter: what is provided is read once."""
    package = tmp_path / "flowers-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: flowers\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[scattershot.tasks]\nflowers = flowers:Flowers\n")
    (tmp_path / "flowers.py").write_text("def Flowers(trial): return 5\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from scattershot_common.task.task_names import task_problem\n"
        "from scattershot_worker.attempt.task_loader import load_task\n"
        "print(task_problem('flowers', Path.cwd()), load_task('flowers', None)(None))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == " 5\n", done.stderr
    assert task_problem("flowers", tmp_path).startswith("must be an installed task (")


def test_a_users_own_task_costs_no_look_at_the_installed_packages(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("class Own: ...\n")
    program = (
        "import sys; from pathlib import Path\n"
        "from scattershot_common.task.task_names import task_problem\n"
        "print(repr(task_problem('own:Own', Path.cwd())), 'importlib.metadata' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == "'' False\n", done.stderr
