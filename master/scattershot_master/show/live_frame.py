"""What a running study shows: the frame on a terminal, the line of progress in a log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from scattershot_common.bus.workers import Heartbeat
from scattershot_master import text
from scattershot_master.show import tables
from scattershot_master.show.layout import Cell, Column, Page, Table, TextLine, height, line
from scattershot_master.show.study_page import counts
from scattershot_master.state import progress
from scattershot_master.state.progress import StageProgress
from scattershot_master.state.study_state import StudyState

#: Rows of the leaderboard: up to `MAX_ROWS`; other parts are left out before it has fewer than
#: `MIN_ROWS`.
MAX_ROWS, MIN_ROWS = 10, 5
#: The lines around them: blank, titles, columns left out, hyperparameters that are the same.
EXTRA_LINES = 4


class Pace(NamedTuple):
    """Seconds since the view was opened, trials per second, seconds left; None: unknown."""

    elapsed: float
    rate: float | None
    left: float | None


def frame(
    state: StudyState,
    stages: Sequence[StageProgress],
    workers: Sequence[Heartbeat],
    recent: Sequence[TextLine],
    pace: Pace,
    size: tuple[int, int],
) -> Page:
    """Return the page of a running study, at most `size` (columns, rows); `recent` are notes."""
    columns, rows = size
    top: Page = [line(), _head(state, pace), line(), bars(stages, 30 if columns >= 120 else 16)]
    foot: Page = [line(), *recent] if recent else []
    rows -= height(top) + EXTRA_LINES
    busy = _workers(state, workers, max(rows - height(foot) - MAX_ROWS - 2, 3))
    # left out where there is no room: first the notes, then the workers, then trials
    if rows - height(busy) - height(foot) < MIN_ROWS:
        foot = []
    if rows - height(busy) - height(foot) < MIN_ROWS:
        busy = []
    count = min(MAX_ROWS, rows - height(busy) - height(foot))
    best = progress.leaders(state, max(count, 0))
    table = [line(), *tables.leaderboard(state, best)] if best else []
    return [*top, *table, *busy, *foot]


def _head(state: StudyState, pace: Pace) -> TextLine:
    parts = [Cell(state.name, "bold"), Cell(f" · {text.duration(pace.elapsed)}")]
    if pace.left is not None:
        parts.append(Cell(f" · about {text.rough(pace.left)} left", "bold"))
    if pace.rate:
        parts.append(Cell(f" · {pace.rate:.3g} trials/s"))
    return [*parts, Cell(" · "), *line(*counts(state))]


def bars(stages: Sequence[StageProgress], width: int) -> Table:
    """Return a row per stage with a bar of `width` characters, filled by its share of epochs."""
    columns = [
        Column("stage"),
        Column(""),
        Column("trials", right=True),
        Column("now"),
        Column("best", right=True),
        Column("trial", right=True),
    ]
    rows = []
    for stage in stages:
        full = int(stage.work * width) if stage.opened else 0
        style = "green" if stage.closed else "cyan" if stage.opened else "dim"
        best = text.NOTHING if stage.best_trial is None else str(stage.best_trial)
        rows.append(
            [
                Cell(stage.name, "bold" if style == "cyan" else ""),
                Cell("━" * full + "─" * (width - full), style),
                Cell(f"{stage.done}/{stage.target}"),
                Cell(_activity(stage), "" if stage.opened else "dim"),
                tables.value(stage.best_value),
                Cell(best, "dim" if best == text.NOTHING else ""),
            ]
        )
    return Table(columns, rows)


def _activity(stage: StageProgress) -> str:
    if not stage.opened:
        return f"to come, {stage.epochs} epochs"
    shown = [
        f"{stage.counts[trial_state]} {trial_state}"
        for trial_state in ("running", "paused", "killed", "failed")
        if stage.counts[trial_state]
    ]
    return ", ".join(shown)


def _workers(state: StudyState, workers: Sequence[Heartbeat], limit: int) -> Page:
    """Return the workers with their trials, on at most `limit` lines below blank and titles."""
    running = [state.trials[number] for number in state.by_state["running"]]
    by_worker = {trial.worker: trial for trial in running}
    devices = {worker.name: worker.device.partition(":")[0] for worker in workers}
    names = sorted(devices.keys() | by_worker.keys(), key=_natural)
    if not names:
        return [line(), line(Cell("no worker is here", "yellow"))]
    columns = [
        Column("worker", long=True),
        Column("device"),
        Column("trial", right=True),
        Column("epochs", right=True),
        Column(state.objective.metric, right=True),
    ]
    rows = []
    for name in names if len(names) <= limit else names[: limit - 1]:
        cells = [Cell(text.one_line(name)), Cell(devices.get(name, text.NOTHING))]
        if trial := by_worker.get(name):
            last = trial.history[-1].get(state.objective.metric) if trial.history else None
            done = Cell(f"{trial.done}/{trial.epochs}")
            rows.append([*cells, Cell(str(trial.number), "cyan"), done, tables.value(last)])
        else:
            rows.append([*cells, Cell("idle", "dim"), Cell(""), Cell("")])
    page: list[TextLine | Table] = [line()]
    if rows:
        page.append(Table(columns, rows))
    if rest := names[len(rows) :]:
        working = sum(name in by_worker for name in rest)
        note = f"{text.plural(len(rest), 'worker')}{' more' if rows else ''}, {working} at work"
        page.append(line(Cell(note, "dim")))
    return page


def _natural(name: str) -> list[str | int]:
    """Return the sort key that puts host-2 before host-10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def progress_line(state: StudyState, stages: Sequence[StageProgress], left: float | None) -> str:
    """Return the progress of the study on one line, for a log."""
    stage = next((s for s in reversed(stages) if s.opened), None)
    parts = [f"{stage.name} {stage.done}/{stage.target}"] if stage else []
    counted = progress.counts(state)
    parts.append(f"{counted['running']} running")
    if best := progress.leaders(state, 1):
        value = text.metric(best[0].best_value)
        parts.append(f"best {state.objective.metric} {value} (trial {best[0].number})")
    parts += [
        f"{counted[trial_state]} {trial_state}"
        for trial_state in ("killed", "failed")
        if counted[trial_state]
    ]
    if left is not None:
        parts.append(f"about {text.rough(left)} left")
    return " · ".join(parts)
