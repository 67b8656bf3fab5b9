"""Tables of a study: leaderboard, stages, workers, ensemble, and a trial's history."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scattershot_common.trial import State, Value
from scattershot_master import text
from scattershot_master.show.layout import Cell, Column, Page, Table, TextLine, line
from scattershot_master.state.progress import StageProgress, leaders
from scattershot_master.state.study_state import StudyState, TrialRecord

STYLES: Mapping[State, str] = {
    "waiting": "dim",
    "running": "cyan",
    "paused": "blue",
    "complete": "green",
    "killed": "yellow",
    "failed": "red",
}
BEST = "bold green"


def leaderboard(state: StudyState, trials: Sequence[TrialRecord]) -> Page:
    """Return the table of `trials`, best first, with a column for every searched hyperparameter.

    Those that are the same in the whole study follow on a line of their own. In a narrow window
    the hyperparameters are left out last: they are what is searched.
    """
    names, fixed = _searched_and_fixed(state)
    write = {name: _format(state, trials, name) for name in names}
    columns = [
        Column("#", right=True),
        Column("trial", right=True),
        Column("state", extra=2),
        Column("stage", extra=3),
        Column("epochs", right=True),
        Column(state.objective.metric, right=True),
        *(Column(name, right=_is_number(trials, name), extra=1) for name in names),
    ]
    rows = []
    for rank, trial in enumerate(trials, 1):
        rows.append(
            [
                Cell(str(rank), "dim"),
                Cell(str(trial.number), "bold"),
                trial_state(trial.state),
                Cell(trial.stage),
                Cell(f"{trial.done}/{trial.epochs}"),
                value(trial.best_value, BEST if rank == 1 else "bold"),
                *(
                    Cell(write[name](trial.params[name]) if name in trial.params else text.NOTHING)
                    for name in names
                ),
            ]
        )
    page: list[TextLine | Table] = [Table(columns, rows)]
    if fixed:
        page.append(line(Cell(f"in every trial: {params(fixed)}", "dim")))
    return page


def top(state: StudyState, count: int) -> Page:
    """Return the leaderboard's first `count` trials, and how many trials are not ranked."""
    page: list[TextLine | Table] = [*leaderboard(state, leaders(state, count))]
    without = sum(trial.best_epoch == 0 for trial in state.trials.values())
    if without:
        note = f"not ranked: {text.plural(without, 'trial')} without a finite value"
        page.append(line(Cell(note, "dim")))
    return page


def _searched_and_fixed(state: StudyState) -> tuple[list[str], dict[str, Value]]:
    """Return the hyperparameters whose values differ between trials, and those fixed for all."""
    names, fixed = [], {}
    for name, entry in state.settings.space_table.items():
        if not isinstance(entry, dict):
            fixed[name] = entry
        elif "value" in entry and "when" not in entry:
            fixed[name] = entry["value"]
        else:
            names.append(name)
    return names, fixed


def _format(state: StudyState, trials: Iterable[TrialRecord], name: str) -> Callable[[Value], str]:
    entry = state.settings.space_table.get(name, {})
    log = isinstance(entry, dict) and "loguniform" in entry
    return text.params_format([t.params[name] for t in trials if name in t.params], log)


def _is_number(trials: Iterable[TrialRecord], name: str) -> bool:
    values = [trial.params[name] for trial in trials if name in trial.params]
    return not any(isinstance(value, str | bool) for value in values)


def params(values: Mapping[str, Value]) -> str:
    """Return hyperparameters for a sentence, floats with three digits.

    >>> params({"lr": 0.000321987, "optimizer": "sgd", "nesterov": True})
    'lr 0.000322, optimizer sgd, nesterov true'
    """

    def write(value: Value) -> str:
        if isinstance(value, float):
            return text.number(value)
        return text.params_format([value], False)(value)

    return ", ".join(f"{name} {write(value)}" for name, value in values.items())


def exact_params(values: Mapping[str, Value]) -> Table:
    """Return hyperparameters one per row, written out in full."""
    rows = [
        [
            Cell(name),
            Cell(text.one_line(str(value).lower() if isinstance(value, bool) else str(value))),
        ]
        for name, value in values.items()
    ]
    return Table([Column(""), Column("", long=True)], rows)


def trial_state(name: State) -> Cell:
    """Return a state in its colour."""
    return Cell(name, STYLES[name])


def value(number: float | None, style: str = "") -> Cell:
    """Return a metric's value, or a dash."""
    if number is None or math.isnan(number):
        return Cell(text.NOTHING, "dim")
    return Cell(text.metric(number), style)


def stages(progress: Sequence[StageProgress]) -> Page:
    """Return the table of the stages, and below it how the space was narrowed between them."""
    shown: list[State] = ["waiting", "running", "paused", "complete", "killed", "failed"]
    rare = {"waiting", "paused", "failed"}  # left out where there are none
    shown = [name for name in shown if name not in rare or any(s.counts[name] for s in progress)]
    columns = [
        Column("stage"),
        Column("trials", right=True),
        Column("epochs", right=True),
        *(Column(name, right=True, extra=int(name in rare)) for name in shown),
        Column("best", right=True),
        Column("trial", right=True),
    ]
    rows = []
    for stage in progress:
        best = text.NOTHING if stage.best_trial is None else str(stage.best_trial)
        rows.append(
            [
                Cell(stage.name, "bold" if stage.opened and not stage.closed else ""),
                Cell(f"{stage.done}/{stage.target}"),
                Cell(str(stage.epochs)),
                *(
                    Cell(str(stage.counts[name]), STYLES[name])
                    if stage.counts[name]
                    else Cell(text.NOTHING, "dim")
                    for name in shown
                ),
                value(stage.best_value),
                Cell(best, "" if best != text.NOTHING else "dim"),
            ]
        )
    notes = [
        line(f"{stage.name} · {text.one_line(note)}") for stage in progress for note in stage.notes
    ]
    return [Table(columns, rows), *notes]


def workers(last: Mapping[str, TrialRecord]) -> Table:
    """Return the table of the workers by name, with the last trial of each."""
    columns = [
        Column("worker", long=True),
        Column("trial", right=True),
        Column("state"),
        Column("epochs", right=True),
        Column("best", right=True),
    ]
    rows = [
        [
            Cell(text.one_line(name)),
            Cell(str(trial.number)),
            trial_state(trial.state),
            Cell(f"{trial.done}/{trial.epochs}"),
            value(trial.best_value),
        ]
        for name, trial in last.items()
    ]
    return Table(columns, rows)


def failures(groups: Sequence[tuple[str, Sequence[int]]]) -> Page:
    """Return a line for every reason why trials failed."""
    return [
        line(
            Cell(f"{len(trials)} failed", "red"),
            f": {text.one_line(reason)} ({text.trial_numbers(trials)})",
        )
        for reason, trials in groups
    ]


def ensemble(result: Mapping[str, Any]) -> Page:
    """Return the scores of the ensemble and the best single model, and each member's gain.

    `result` is the study's state's `ensemble`.
    """
    score = text.one_line(str(result.get("score_name", "score")))
    validation, test = result.get("validation") or {}, result.get("test") or {}
    single = test.get("best_single_trial")
    rows = [
        [
            Cell(f"best single model (trial {single})" if single is not None else "best single"),
            value(validation.get("best_single")),
            value(test.get("best_single")),
        ],
        [
            Cell(f"ensemble of {len(result['members'])}", "bold"),
            value(validation.get("ensemble"), "bold"),
            value(test.get("ensemble"), BEST),
        ],
    ]
    columns = [
        Column(f"{score}, {result.get('method', '')} ensemble".replace("  ", " ")),
        Column("validation", right=True),
        Column("test", right=True),
    ]
    page: list[TextLine | Table] = [Table(columns, rows), line(), _members(result, score)]
    if note := result.get("note"):
        page.append(line(Cell(text.one_line(str(note)), "dim")))
    return page


def _members(result: Mapping[str, Any], score: str) -> Table:
    columns = [
        Column("member: trial", right=True),
        Column("weight", right=True),
        Column("epoch", right=True),
        Column(score, right=True),
        Column("gain", right=True),
    ]
    rows = [
        [
            Cell(str(member["trial"])),
            Cell(f"{member['weight']:.3g}"),
            Cell(str(member["epoch"])),
            value(member["value"]),
            Cell(f"{member['gain']:+.4f}", "green" if member["gain"] > 0 else "dim"),
        ]
        for member in result["members"]
    ]
    return Table(columns, rows)


#: In the first epoch's record only: the losses that training begins with.
INITIAL_LOSSES = ("initial_loss", "chance_loss")


def history(epochs: Sequence[Mapping[str, float]], metric: str, best_epoch: int) -> Table:
    """Return a trial's history: a row per epoch, the study's metric first, the best one marked."""
    names = [metric, *(name for metrics in epochs for name in metrics)]
    names = [name for name in dict.fromkeys(names) if name not in ("epoch", *INITIAL_LOSSES)]
    rows = []
    for metrics in epochs:
        epoch = int(metrics["epoch"])
        best = epoch == best_epoch
        style = BEST if best else ""
        cells = [
            Cell(
                text.metric(metrics[name]) if name in metrics else text.NOTHING,
                style if name == metric else "",
            )
            for name in names
        ]
        rows.append([Cell(str(epoch)), *cells, Cell("best" if best else "", style)])
    columns = [
        Column("epoch", right=True),
        *(Column(name, right=True, extra=int(name != metric)) for name in names),
        Column(""),
    ]
    return Table(columns, rows)
