"""Validation of one table of a study file against its settings, with messages for the user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scattershot_common.problems import KeyPath, Problem, nearest, number_problem, show
from scattershot_common.study.settings import RULES

Table = TypeVar("Table", bound=BaseModel)

BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
}


def keys(model: type[BaseModel]) -> list[str]:
    """Return the keys of a table as the study file writes them.

    >>> from scattershot_common.study.settings import Checkpoints
    >>> keys(Checkpoints)
    ['keep', 'store']
    """
    return [str(field.validation_alias or name) for name, field in model.model_fields.items()]


def read_table(
    model: type[Table], table: object, path: KeyPath, problems: list[Problem]
) -> Table | None:
    """Return the settings in `table`, or None after adding its problems to `problems`."""
    if not isinstance(table, dict):
        header = f"[{path[0]}]" if len(path) == 1 else f"[[{path[0]}]]"
        problems.append(Problem(path, f"must be a table, {header} (found {show(table)})"))
        return None
    known = keys(model)
    wrong = [
        Problem((*path, key), f"unknown key (known: {', '.join(known)}){nearest(key, known)}")
        for key in table
        if key not in known
    ]
    settings = None
    try:
        settings = model.model_validate({key: table[key] for key in table if key in known})
    except ValidationError as error:
        wrong += [_problem(details, path, table) for details in error.errors()]
    problems += wrong
    return None if wrong else settings


def _problem(error: ErrorDetails, path: KeyPath, table: Mapping[str, object]) -> Problem:
    key = str(error["loc"][0])
    return Problem((*path, key), _message(error, key))


def _message(error: ErrorDetails, key: str) -> str:
    kind, value, bounds = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return f"is missing; write {key} = ..."
    if kind in ("int_type", "float_type", "finite_number"):
        return number_problem(value, whole=kind == "int_type")
    if kind in BOUNDS:
        words, name = BOUNDS[kind]
        bound = bounds[name]
        number = f"{bound:g}" if isinstance(bound, float) else bound
        return f"must be {words} {number} (found {show(value)})"
    if kind == "string_pattern_mismatch":
        return (
            "must be letters, digits and - _ . only, 64 at most, and not start with . or - "
            f"(found {show(value)})"
        )
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_type":
        return f"needs text, in quotes (found {show(value)})"
    if kind == "literal_error" and key in ("rule", "kill"):
        near = "" if value == "none" else nearest(value, [*RULES, "none"])
        rules = ", ".join(RULES)
        return f'must be one or more of {rules}, or "none" alone (found {show(value)}){near}'
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", bounds["expected"])
        return f"must be {' or '.join(allowed)} (found {show(value)}){nearest(value, allowed)}"
    if kind == "tuple_type":
        return f"needs a rule or a list of rules (found {show(value)})"
    return f"{error['msg']} (found {show(value)})"
