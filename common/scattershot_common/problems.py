"""Descriptions of wrong values in a study file or flag: the key, the value, the nearest word."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from math import isfinite

from scattershot_common.errors import StudyFileError

#: The keys that lead to a place in a study file; an int counts the tables of a list from 0.
KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the value of a key.

    >>> print(Problem(("stage", 1, "epochs"), "must be at least 1 (found 0)"))
    stage[2].epochs: must be at least 1 (found 0)
    """

    path: KeyPath
    message: str

    def __str__(self) -> str:
        dotted = ""
        for part in self.path:
            dotted += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if dotted else part
        return f"{dotted}: {self.message}" if dotted else self.message


class InvalidEntry(Exception):
    """An entry of a study file that cannot be read; `problem` says why."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(path, message)


def show(value: object) -> str:
    """Return a value as the study file would write it, shortened to one line.

    >>> show("1e-4"), show(True), show([1, 2.5])
    ('"1e-4"', 'true', '[1, 2.5]')
    """
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(word: object, known: Iterable[str]) -> str:
    """Return '; did you mean "x"?' for the known word nearest to `word`, or "" if none is near.

    >>> nearest("epocs", ["epochs", "trials"])
    '; did you mean "epochs"?'
    """
    close = get_close_matches(str(word), list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def number_problem(value: object, whole: bool = False) -> str:
    """Return why `value` is not a finite (whole) number, or "" if it is one.

    >>> number_problem("1e-4")
    'needs a number (found "1e-4", which is text): remove the quotes'
    """
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float):
        if isinstance(value, str) and _reads_as_number(value):
            return f"needs {kind} (found {show(value)}, which is text): remove the quotes"
        return f"needs {kind} (found {show(value)})"
    try:
        finite = isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        return f"needs a finite number (found {show(value)})"
    if whole and isinstance(value, float):
        advice = f"; write {value:.0f}" if value.is_integer() else ""
        return f"needs a whole number (found {show(value)}){advice}"
    return ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_device(device: str) -> None:
    """Raise StudyFileError unless `device` is auto, cpu, mps, cuda or cuda:N."""
    kind, _, index = device.partition(":")
    if device in ("auto", "cpu", "mps", "cuda") or (kind == "cuda" and index.isdecimal()):
        return
    raise StudyFileError(f"--device {device}: write auto, cpu, cuda, cuda:N or mps")
