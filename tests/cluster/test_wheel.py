"""The wheel: everything that the packages need is in it, and it runs where it is installed."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    "api/scattershot",
    "common/scattershot_common",
    "master/scattershot_master",
    "worker/scattershot_worker",
]


def pip(*arguments: str | Path) -> None:
    """Run pip, without a network."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def says(*arguments: str | Path, cwd: Path) -> str:
    """Return what a command prints; it sees no source tree."""
    done = subprocess.run(
        [*map(str, arguments)], cwd=cwd, env={"HOME": str(cwd)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_every_file_and_runs_in_a_fresh_environment(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package in PACKAGES:
        folder = ROOT / package
        files = {
            path.relative_to(folder.parent).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert files - names == set()
    assert [name for name in names if name.endswith(".lua")]

    fresh = tmp_path / "fresh"
    says(sys.executable, "-m", "venv", "--without-pip", fresh, cwd=tmp_path)
    # the libraries are those of this environment, which are listed but not followed: an editable
    # install among them does not count
    site = Path(sysconfig.get_path("purelib", vars={"base": str(fresh), "platbase": str(fresh)}))
    libraries = [path for path in sys.path if Path(path).name.endswith("-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    python = fresh / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", "--ignore-installed", wheel)
    modules = "scattershot", "scattershot_common", "scattershot_master", "scattershot_worker"
    program = f"import {', '.join(modules)}; print(*[m.__file__ for m in ({', '.join(modules)})])"
    for file in says(python, "-c", program, cwd=tmp_path).split():
        assert Path(file).is_relative_to(fresh)
    assert "run" in says(fresh / "bin" / "scattershot", "--help", cwd=tmp_path)
    assert "--redis" in says(fresh / "bin" / "scattershot-worker", "--help", cwd=tmp_path)
    scripts = "from scattershot_common.bus.trial_state import TrialStates; print(TrialStates)"
    assert "TrialStates" in says(python, "-c", scripts, cwd=tmp_path)
