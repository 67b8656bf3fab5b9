"""Checking a task from the master: by a process of its own, since it takes torch and the task.

The hyperparameters are those of the middle of the space, unless some are given.
"""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from scattershot_common.entry_points import program
from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_common.machine import die_with_parent
from scattershot_common.problems import nearest, show
from scattershot_common.space.space import Space
from scattershot_common.study.settings import StudyFile
from scattershot_common.task.check_result import CheckResult
from scattershot_common.trial import Value


def middle(space: Space, given: Mapping[str, Value]) -> dict[str, Value]:
    """Return the hyperparameters in the middle of `space`, with those `given` in their place.

    Which others exist follows from those given: with optimizer = "sgd" there is a momentum.

    >>> space = Space.parse({"lr": {"loguniform": [1e-4, 1.0]}, "hidden": {"choice": [8, 16, 32]}})
    >>> middle(space, {"lr": 0.02})
    {'lr': 0.02, 'hidden': 16}

    Raises:
        StudyFileError: the space has no hyperparameter of that name.
    """
    for name in given:
        if name not in space.names:
            raise StudyFileError(
                f"--param {name}: [space] has none of that name{nearest(name, space.names)}"
            )
    point = [0.5] * len(space.axes)
    for index, axis in enumerate(space.axes):
        with suppress(ValueError, KeyError):  # not on the axis, or not given
            point[index] = axis.locate(given[axis.name])
    return {**space.at(point), **given}


def read_params(texts: Sequence[str]) -> dict[str, Value]:
    """Return the values of `name=value` as a study file would write them; text needs no quotes.

    >>> read_params(["hidden=64", "lr=1e-3", "optimizer=sgd", "nesterov=true"])
    {'hidden': 64, 'lr': 0.001, 'optimizer': 'sgd', 'nesterov': True}

    Raises:
        StudyFileError: there is no "=", or a value is no finite number, text, true or false.
    """
    params: dict[str, Value] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise StudyFileError(f"--param {text}: write name=value, as in --param hidden=64")
        try:
            read = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            read = value
        if isinstance(read, float) and not math.isfinite(read):
            raise StudyFileError(f"--param {text}: {name} must be a finite number")
        if not isinstance(read, float | int | bool | str):
            raise StudyFileError(f"--param {text}: {show(value)} is no number, text, true or false")
        params[name] = read
    return params


def run_checks(
    study: StudyFile,
    params: Mapping[str, Value],
    *,
    only: Sequence[str],
    device: str,
    data: str | None,
    paths: Sequence[Path],
) -> Iterator[CheckResult]:
    """Yield the results of the checks of a study's task, as they come.

    Raises:
        ScattershotError: the task cannot be loaded, or the process that checks it has died.
    """
    if importlib.util.find_spec("torch") is None:
        raise ScattershotError("torch is not installed here; run the checks on a worker's machine")
    request = {
        "task": study.study.task,
        "data": data,
        "params": dict(params),
        "space": study.space_table,
        "only": [*only],
        "device": device,
        "seed": study.study.seed,
        "threads": study.worker.threads,
        "paths": [str(path.resolve()) for path in paths],
    }
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            program("checks"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=die_with_parent(),
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # it has died: its last line says why
                process.stdin.write(json.dumps(request))
                process.stdin.close()
            for line in process.stdout:
                answer = json.loads(line)
                if "error" in answer:
                    raise ScattershotError(answer["error"])
                yield CheckResult.from_json(answer["result"])
            if status := process.wait():
                raise ScattershotError(
                    f"the process that checks has ended: {_last_line(errors, status)}"
                )
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _last_line(errors: IO[bytes], status: int) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"status {status}"
