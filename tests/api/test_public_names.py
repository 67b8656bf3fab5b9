from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import scattershot as ss

ROOT = Path(__file__).parents[2]
NAMES = [
    "CheckResult",
    "Data",
    "ScattershotError",
    "Task",
    "TaskError",
    "TrialHandle",
    "check",
]

#: A user's module; the wrong uses are marked.
USER_CODE = """\
from collections.abc import Mapping

import torch
from torch import nn

import scattershot as ss


class Flowers(ss.Task):
    def data(self) -> ss.Data:
        x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
        return ss.Data(train=(x, y), val=(x, y))

    def model(self, params: Mapping[str, object]) -> nn.Module:
        return nn.Linear(2, 2)


def train(trial: ss.TrialHandle) -> None:
    for epoch in trial.epochs():
        reveal_type(epoch)
        trial.report(val_accuracy=0.5)


try:
    reveal_type(ss.check(Flowers))
except (ss.TaskError, ss.ScattershotError):
    pass
reveal_type(ss.Task)
ss.check(Flowers, onyl=["data"])  # wrong
ss.Data(train=3, val=3)  # wrong
ss.Nonsense  # wrong
ss.Task().data()  # wrong
"""


def loaded_by(program: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter has imported after `program`."""
    program += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {*done.stdout.split()}


def test_the_public_names_are_those_and_are_there() -> None:
    assert sorted(ss.__all__) == dir(ss) == NAMES
    for name in NAMES:
        assert getattr(ss, name).__name__ == name


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'scattershot' has no attribute 'Nonsense'"):
        ss.Nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_loads_nothing() -> None:
    loaded = loaded_by("import scattershot as ss; ss.__all__")
    assert "scattershot" in loaded
    heavy = {"torch", "numpy", "pydantic", "redis", "rq", "scipy", "scattershot_common"}
    assert not loaded & heavy


def test_naming_everything_loads_neither_torch_nor_what_the_master_needs() -> None:
    names = ", ".join(f"ss.{name}" for name in NAMES)
    loaded = loaded_by(f"import scattershot as ss; {names}")
    assert "scattershot_common" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "redis", "rq", "scipy"}


@pytest.mark.parametrize(
    "package", ["scattershot", "scattershot_common", "scattershot_master", "scattershot_worker"]
)
def test_type_checkers_are_told_that_a_package_is_typed(package: str) -> None:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    assert (Path(spec.origin).parent / "py.typed").exists()


def complaints(found: dict[int, str]) -> None:
    """Check what a type checker says of `USER_CODE`, line by line."""
    lines = {number + 1: line for number, line in enumerate(USER_CODE.splitlines())}
    revealed = {line: text for line, text in found.items() if "reveal_type" in lines[line]}
    assert [text for text in revealed.values() if "int" in text]
    assert [text for text in revealed.values() if "list[" in text and "CheckResult" in text]
    assert [text for text in revealed.values() if "Task" in text]
    wrong = {number for number, line in lines.items() if line.endswith("# wrong")}
    assert {*found} - {*revealed} == wrong, found


@pytest.mark.slow
def test_mypy_sees_the_names_and_what_is_wrong(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(USER_CODE)
    assert pytestconfig.cache is not None  # the first run reads all of torch: 15 s
    cache = pytestconfig.cache.mkdir("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--output=json", f"--cache-dir={cache}"]
    done = subprocess.run([*command, "user.py"], capture_output=True, text=True, cwd=tmp_path)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    complaints({answer["line"]: answer["message"] for answer in answers})


@pytest.mark.slow
def test_pyright_sees_the_names_and_what_is_wrong(tmp_path: Path) -> None:
    pyright = shutil.which("pyright", path=str(Path(sys.executable).parent))
    if pyright is None:
        pytest.skip("pyright is not installed")
    (tmp_path / "user.py").write_text(USER_CODE)
    command = [pyright, "--outputjson", "--pythonpath", sys.executable, "user.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    try:
        answers = json.loads(done.stdout)["generalDiagnostics"]
    except ValueError:
        pytest.skip(f"pyright does not run here: {done.stderr or done.stdout}")
    complaints({answer["range"]["start"]["line"] + 1: answer["message"] for answer in answers})
