"""Reader of study files: TOML to `StudyFile`, or a line for each problem."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from scattershot_common.errors import StudyFileError
from scattershot_common.problems import KeyPath, Problem, nearest, show
from scattershot_common.space.parse import parse_space
from scattershot_common.store import open_store
from scattershot_common.study.known_values import value_problems
from scattershot_common.study.settings import (
    RULE_KEYS,
    Checkpoints,
    Ensemble,
    Kill,
    Stage,
    Study,
    StudyFile,
    Worker,
    unread_keys,
)
from scattershot_common.study.validate import keys, read_table
from scattershot_common.task.metric_names import looks_smaller, name_problem
from scattershot_common.task.task_names import task_problem

#: The tables whose keys are settings; the others are [space] and [[stage]].
TABLES: dict[str, type[BaseModel]] = {
    "study": Study,
    "kill": Kill,
    "checkpoints": Checkpoints,
    "ensemble": Ensemble,
    "worker": Worker,
}
KNOWN = ("study", "space", "stage", "kill", "checkpoints", "ensemble", "worker")
NEEDED = {"study": "[study]", "space": "[space]", "stage": "[[stage]]"}


def load(path: str | Path) -> StudyFile:
    """Read a study file. Raises StudyFileError with a line for each problem."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise StudyFileError(f"{path}: there is no such study file") from None
    except UnicodeDecodeError as error:
        raise StudyFileError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise StudyFileError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path), path.parent)


def parse(text: str, source: str = "study.toml", folder: Path = Path()) -> StudyFile:
    """Read the text of a study file in `folder`, where the user's task is searched for.

    Raises StudyFileError with one line for each problem, in the order of the file:
    "source:line: key: what was found and what is allowed".
    """
    try:
        tables = tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or an integer of thousands of digits
        last = text.rstrip().count("\n") + 1
        raise StudyFileError(source + _syntax(str(error), last)) from None
    problems = _problems(tables, folder)
    if problems:
        lines = _lines(text)
        numbered = [(_line(problem, lines), problem) for problem in problems]
        raise StudyFileError(
            "\n".join(
                f"{source}:{line}: {problem}" if line else f"{source}: {problem}"
                for line, problem in sorted(numbered, key=itemgetter(0))
            )
        )
    return StudyFile.model_validate(tables)


def _problems(tables: Mapping[str, object], folder: Path) -> list[Problem]:
    """Return all problems: of each table alone first, then between tables."""
    problems: list[Problem] = []
    for key, value in tables.items():
        if key not in KNOWN:
            kind = "table" if isinstance(value, dict | list) else "key"
            homes = [f"[{name}]" for name, model in TABLES.items() if key in keys(model)]
            advice = f"; it belongs under {' or '.join(homes)}" if homes else nearest(key, KNOWN)
            problems.append(Problem((key,), f"unknown {kind} (known: {', '.join(KNOWN)}){advice}"))
    for key, header in NEEDED.items():
        if key not in tables:
            problems.append(Problem((), f"the table {header} is missing"))

    settings: dict[str, Any] = {
        key: read_table(model, tables.get(key, {}), (key,), problems)
        for key, model in TABLES.items()
        if key in tables or key == "kill"
    }
    problems += _study_problems(tables.get("study"), folder)
    problems += _store_problems(tables.get("checkpoints"))
    space = tables.get("space", {})
    if isinstance(space, dict):
        problems += parse_space(space).problems
        study = tables.get("study")
        problems += value_problems(study.get("task") if isinstance(study, dict) else None, space)
    else:
        problems.append(Problem(("space",), f"must be a table, [space] (found {show(space)})"))
    listed = tables.get("stage", [])
    if not isinstance(listed, list) or (not listed and "stage" in tables):
        problems.append(Problem(("stage",), "needs two brackets, [[stage]], once for each stage"))
        listed = []
    stages = [
        read_table(Stage, stage, ("stage", index), problems) for index, stage in enumerate(listed)
    ]
    problems += _stage_problems(stages)
    if settings["kill"]:
        problems += _kill_problems(settings["kill"], [stage for stage in stages if stage])
    return problems


def _study_problems(study: object, folder: Path) -> Iterator[Problem]:
    """Yield problems that types do not show, whatever else is wrong with the table."""
    if not isinstance(study, dict):
        return
    task, metric = study.get("task"), study.get("metric")
    wrong = task_problem(task, folder) if isinstance(task, str) else ""
    if wrong:
        yield Problem(("study", "task"), wrong)
    if not isinstance(metric, str) or not metric:
        return
    wrong = name_problem(metric)
    if wrong:
        yield Problem(("study", "metric"), f"{wrong}; report the metric under another name")
    elif looks_smaller(metric) and "goal" not in study:
        yield Problem(
            ("study", "metric"),
            f'{show(metric)} looks better when smaller, but the default goal is "maximize"; '
            'write goal = "minimize" (or goal = "maximize")',
        )


def _store_problems(checkpoints: object) -> Iterator[Problem]:
    store = checkpoints.get("store") if isinstance(checkpoints, dict) else None
    wrong = open_store.problem_with(store) if isinstance(store, str) and store else ""
    if wrong:
        yield Problem(("checkpoints", "store"), wrong)


def _stage_problems(stages: Sequence[Stage | None]) -> Iterator[Problem]:
    """Yield stages that contradict others; None stands for a stage with problems of its own."""
    for index, stage in enumerate(stages):
        if stage is None:
            continue
        path = ("stage", index)
        earlier = stages[:index]
        twins = [
            number for number, other in enumerate(earlier, 1) if other and other.name == stage.name
        ]
        if twins:
            yield Problem((*path, "name"), f"stage {twins[0]} is called {show(stage.name)} already")
        for key, value in (("refine", stage.refine), ("continue", stage.continue_)):
            if value is not None and not index:
                yield Problem(
                    (*path, key), "the first stage has no earlier trials; write trials = ..."
                )
        if stage.continue_ is not None:
            yield from _continue_problems(stage, stage.continue_, path, earlier)
        elif stage.refine is not None and stage.trials is None:
            yield Problem((*path, "refine"), "needs trials = ..., the number of new points")
        elif stage.trials is None:
            yield Problem(
                path, "needs trials = ... (new points) or continue = ... (the best go on)"
            )


def _continue_problems(
    stage: Stage, count: int, path: tuple[str, int], earlier: Sequence[Stage | None]
) -> Iterator[Problem]:
    if stage.trials is not None:
        yield Problem((*path, "trials"), "a stage has trials (new points) or continue, not both")
    if stage.refine is not None:
        yield Problem((*path, "refine"), "a stage has refine (new points) or continue, not both")
    done = [other for other in earlier if other]
    if not done or len(done) < len(earlier):
        return
    available = sum(other.trials or 0 for other in done)
    if count > available:
        yield Problem(
            (*path, "continue"), f"the earlier stages have {available} trials (found {count})"
        )
    most = max(other.epochs for other in done)
    if stage.epochs <= most:
        yield Problem(
            (*path, "epochs"),
            f"must be above {most}, which trials of an earlier stage have done already "
            f"(found {stage.epochs})",
        )


def _kill_problems(kill: Kill, stages: Sequence[Stage]) -> Iterator[Problem]:
    rules = {*kill.rule, *(rule for stage in stages for rule in stage.kill or ())}
    unread = unread_keys(rules) if rules else []  # with none, they wait to be turned on
    for key in kill.model_fields_set & {*unread}:
        yield Problem(
            ("kill", key),
            f"belongs to {' and '.join(RULE_KEYS[key])}, not to {' and '.join(sorted(rules))}",
        )
    judged = [stage.epochs for stage in stages if (kill.rule if stage.kill is None else stage.kill)]
    if "grace" in kill.model_fields_set and judged and kill.grace >= max(judged):
        yield Problem(
            ("kill", "grace"),
            f"must be below {max(judged)}, the epochs of the longest stage with a rule, "
            f"or no trial is ever judged (found {kill.grace})",
        )


def _syntax(message: str, last: int) -> str:
    """Return tomllib's "what (at line 3, column 5)" with the line first and advice last."""
    what, _, place = message.partition(" (at ")
    at = re.match(r"line (\d+), (column \d+)", place)
    where = f":{at[1]}: not TOML at {at[2]}" if at else f":{last}: not TOML at its end"
    advice = ""
    if what.startswith("Invalid value"):
        advice = (
            "; text needs quotes, a number a digit before its point, true and false no capitals"
        )
    elif what.startswith("Cannot"):
        advice = "; a key or a table is written twice"
    return f"{where}: {what}{advice}"


def _lines(text: str) -> dict[KeyPath, int]:
    """Return the line of every key and table header that starts a line (not of keys in braces).

    tomllib reports no line numbers, so each line that looks like a key is parsed alone.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    tables: dict[str | int, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        header = line.startswith("[")
        try:
            nested: Any = tomllib.loads(line if header else f"{line.partition('=')[0]}= 0")
        except tomllib.TOMLDecodeError:
            continue  # part of a value that goes over several lines
        path: KeyPath = ()
        while nested:
            ((key, nested),) = nested.items()
            path += (key,)
            if isinstance(nested, list):
                tables[key] = tables.get(key, -1) + 1
                path += (tables[key],)
                nested = nested[0]
        if header:
            table = path
        lines.setdefault(path if header else table + path, number)
    return lines


def _line(problem: Problem, lines: Mapping[KeyPath, int]) -> int:
    """Return the line of the key or of its innermost parent that has one, else 0."""
    ends = range(len(problem.path), 0, -1)
    return next((lines[problem.path[:end]] for end in ends if problem.path[:end] in lines), 0)
