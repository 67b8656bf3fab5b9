import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Task
from scattershot_worker.attempt import task_loader
from scattershot_worker.attempt.task_loader import load_task

TASK = """
from common import SHIFT
from scattershot import Data, Task

class Flowers(Task):
    shift = SHIFT
    def data(self): ...
    def model(self, params): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a user's code that modules are imported from; forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(task_loader, "_loaded", {})
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def complaint(name: str, data: str | None = None) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(name, data)
    return str(caught.value)


def test_builtin_tasks_are_known_by_name(tmp_path: Path) -> None:
    task = load_task("digits", str(tmp_path))
    assert isinstance(task, Task)
    assert (type(task).__name__, task.folder) == ("Digits", tmp_path)


def test_a_users_folder_may_have_a_package_called_common(folder: Path) -> None:
    (folder / "common").mkdir()
    (folder / "common" / "__init__.py").write_text("SHIFT = 7\n")
    (folder / "flowers.py").write_text(TASK)
    task = load_task("flowers:Flowers", None)
    assert isinstance(task, Task)
    assert (task.shift, task.folder) == (7, None)  # type: ignore[attr-defined]


def test_nothing_of_ours_is_importable_under_a_common_name() -> None:
    """In a fresh interpreter, as a worker's child is one."""
    names = ("common", "worker", "master", "tasks", "bus", "store")
    program = (
        "import importlib.util, scattershot, scattershot_worker\n"
        f"print([name for name in {names} if importlib.util.find_spec(name)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(sys.prefix)
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_module_inside_a_package_is_found(folder: Path) -> None:
    (folder / "mine" / "inner").mkdir(parents=True)
    (folder / "mine" / "inner" / "flowers.py").write_text("def train(trial): return 5\n")
    task = load_task("mine.inner.flowers:train", None)
    assert not isinstance(task, Task)
    assert task(None) == 5


def test_a_task_is_loaded_once_and_kept_warm(folder: Path) -> None:
    (folder / "flowers.py").write_text(TASK.replace("from common import SHIFT", "SHIFT = 1"))
    first = load_task("flowers:Flowers", None)
    assert load_task("flowers:Flowers", None) is first
    assert load_task("flowers:Flowers", "elsewhere") is not first


def test_a_missing_module_is_told_by_name(folder: Path) -> None:
    assert complaint("no_such_module:Task") == (
        "task 'no_such_module:Task' cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'"
    )


def test_a_missing_name_is_told(folder: Path) -> None:
    (folder / "flowers.py").write_text("")
    assert "module 'flowers' has no attribute 'Flowers'" in complaint("flowers:Flowers")


def test_a_name_without_a_colon_is_told(folder: Path) -> None:
    (folder / "flowers.py").write_text("")
    assert "task 'flowers' cannot be imported" in complaint("flowers")


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import not_installed", "ModuleNotFoundError: No module named 'not_installed'"),
        ("def broken(:", "SyntaxError: "),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_an_error_in_the_module_is_told_with_its_cause(folder: Path, code: str, cause: str) -> None:
    (folder / "flowers.py").write_text(code)
    with pytest.raises(TaskError, match="task 'flowers:Flowers' cannot be imported") as caught:
        load_task("flowers:Flowers", None)
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)
    assert type(caught.value.__cause__).__name__ == cause.partition(":")[0]


def test_an_error_while_the_task_is_made_is_told_with_its_cause(folder: Path) -> None:
    code = "    def __init__(self, folder=None): raise OSError('no camera')\n"
    (folder / "flowers.py").write_text(TASK.replace("from common import SHIFT", "SHIFT = 1") + code)
    assert complaint("flowers:Flowers") == (
        "task 'flowers:Flowers' cannot be made: OSError: no camera"
    )


def test_a_kind_that_there_is_not_is_told(folder: Path) -> None:
    code = "SHIFT = 1\n" + TASK.split("\n", 2)[2] + "    kind = 'regresion'\n"
    (folder / "flowers.py").write_text(code)
    assert complaint("flowers:Flowers") == (
        "task 'flowers:Flowers': its kind is 'regresion', not classification or regression"
    )


def test_a_task_that_lacks_a_method_is_told(folder: Path) -> None:
    (folder / "flowers.py").write_text(
        "from scattershot import Task\nclass Half(Task):\n    def data(self): ...\n"
    )
    message = complaint("flowers:Half")
    assert "task 'flowers:Half' cannot be made: TypeError" in message and "model" in message


@pytest.mark.parametrize("code", ["Flowers = 5", "class Flowers: pass", "Flowers = 'text'"])
def test_what_is_neither_task_nor_function_is_refused(folder: Path, code: str) -> None:
    (folder / "flowers.py").write_text(code)
    assert complaint("flowers:Flowers") == (
        "task 'flowers:Flowers' is neither a subclass of scattershot.Task nor a train function"
    )


def test_after_an_error_the_module_is_tried_again(folder: Path) -> None:
    (folder / "flowers.py").write_text("1 / 0")
    complaint("flowers:train")
    (folder / "flowers.py").write_text("def train(trial): return 'mended by now'\n")
    task = load_task("flowers:train", None)
    assert not isinstance(task, Task)
    assert task(None) == "mended by now"


def test_a_file_that_is_called_like_a_module_in_use_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("def train(trial): pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TaskError, match=r"queue\.py is called like a module that is in use"):
        load_task("queue:train", None)
