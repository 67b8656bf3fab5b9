"""Commands whose output goes nowhere, or into an encoding that lacks characters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = """
[study]
name = "streams"
task = "digits"
[space]
lr = { loguniform = [1e-3, 1e-1] }
[[stage]]
name = "one"
trials = 1
epochs = 1
"""
ENCODINGS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
COMMAND = f"{sys.executable} -c 'from scattershot_master.cli import main; main()'"


def shell(script: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script, in which `scattershot` is the command."""
    done = subprocess.run(
        ["bash", "-c", f'scattershot() {{ {COMMAND} "$@"; }}\n{script}'],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr and "Error" not in done.stderr, done.stderr
    return done


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    done = shell("scattershot --help > /dev/full; echo $?", tmp_path)
    assert done.stdout == "1\n"
    assert done.stderr == "scattershot: the output cannot be written: No space left on device\n"


def test_a_reader_that_leaves_ends_a_command_without_a_word(tmp_path: Path) -> None:
    done = shell("scattershot --help | true; echo ${PIPESTATUS[0]}", tmp_path)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_command_needs_no_standard_output(tmp_path: Path) -> None:
    done = shell("scattershot --help >&- 2>&- <&-", tmp_path)
    assert done.returncode == 0


def test_errors_keep_their_exit_code_without_any_output(tmp_path: Path) -> None:
    assert shell("scattershot status >&- 2>&-", tmp_path).returncode == 1
    assert shell("scattershot run none.toml > /dev/full 2> /dev/full", tmp_path).returncode == 2


def test_a_working_folder_that_is_gone_is_told_in_one_line(tmp_path: Path) -> None:
    done = shell("mkdir d; cd d; rmdir ../d; scattershot run study.toml", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "scattershot: the working folder is gone: cd to one that is there\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("output", "environment"),
    [
        ("", ENCODINGS["ascii"]),
        ("", ENCODINGS["C"]),
        ("> /dev/full", {}),
        (">&- 2>&- <&-", {}),
        ("| true", {}),
    ],
    ids=["ascii", "C", "full", "closed", "pipe"],
)
def test_a_run_goes_on_whatever_becomes_of_its_output(
    tmp_path: Path, output: str, environment: dict[str, str]
) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    run = f"scattershot run study.toml --workers 1 {output}; exit ${{PIPESTATUS[0]}}"
    assert shell(run, tmp_path, **environment).returncode == 0
    done = shell("scattershot status", tmp_path, **environment)
    assert "1 complete" in done.stdout
    if environment:
        assert "?" in done.stdout and done.stdout.isascii()
