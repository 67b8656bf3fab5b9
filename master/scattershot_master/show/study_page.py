"""Owns the pages about a whole study: `status`, and the end of a run."""

from __future__ import annotations

import time
from pathlib import Path

from scattershot_common.store import location
from scattershot_master import text
from scattershot_master.export import Kept
from scattershot_master.show import tables
from scattershot_master.show.layout import Cell, Line, Page, line, section
from scattershot_master.state import progress
from scattershot_master.state.border_warnings import border_warnings
from scattershot_master.state.ledger import LEDGER
from scattershot_master.state.study_state import Board, TrialRecord

#: How many trials the end of a run lists.
TOP = 10


def status(board: Board, folder: Path, *, running: bool, now: float) -> Page:
    """Return where the study stands; `now` is in seconds since 1970."""
    stages = progress.stages(board)
    study = board.study["study"]
    best = progress.leaders(board, 1)
    return [
        line(
            Cell(board.name, "bold"),
            f" · task {text.one_line(study['task'])} · {board.goal} {board.metric}"
            f" · seed {study.get('seed', 0)}",
        ),
        line(*_activity(board, stages, running, now)),
        line(*counts(board)),
        *section("stages", tables.stages(stages)),
        *section("best trial", best_trial(board, best[0], folder) if best else []),
        *section("failures", tables.failures(progress.failures(board))),
        *section("warnings", warnings(board)),
        *section("ensemble", tables.ensemble(board.ensemble) if board.ensemble else []),
        *section("workers", _workers(board)),
        *section("files", files(board, folder)),
    ]


def _activity(
    board: Board, stages: list[progress.StageProgress], running: bool, now: float
) -> list[str | Cell]:
    took = text.duration(progress.elapsed(board, now))
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(board.begun))
    if board.finished:
        return [Cell("finished", "green"), f" after {took}, begun {begun}"]
    if not running:
        return [
            Cell("stopped", "yellow"),
            f", begun {begun}; to go on, run its study file again with the same output folder",
        ]
    left = progress.time_left(stages, progress.rate_from_ends(board, now))
    about = f", about {text.rough(left)} left" if left is not None else ""
    return [Cell("running", "cyan"), f" for {took}{about}, begun {begun}"]


def counts(board: Board) -> list[str | Cell]:
    """Return how many trials are in each state, for a line."""
    parts: list[str | Cell] = [text.plural(len(board.trials), "trial")]
    for state, count in progress.counts(board).items():
        if count:
            parts += [
                ", " if len(parts) > 1 else ": ",
                Cell(f"{count} {state}", tables.STYLES[state]),
            ]
    return parts


def best_trial(board: Board, trial: TrialRecord, folder: Path) -> list[Line]:
    """Return the lines about the study's best trial: value, hyperparameters, checkpoint."""
    return [
        line(
            f"trial {trial.number} ({trial.stage}, {trial.state}): {board.metric} ",
            Cell(text.metric(trial.best_value), tables.BEST),
            f" at epoch {trial.best_epoch} of {trial.done}",
        ),
        line(tables.params(trial.params)),
        *_checkpoint(board, trial, folder),
    ]


def _checkpoint(board: Board, trial: TrialRecord, folder: Path) -> list[Line]:
    path = Kept(board, folder)(trial)
    return [line(path if board.store else str(folder / path))] if path else []


def warnings(board: Board) -> list[Line]:
    """Return a line for every border warning."""
    return [line(Cell("border ", "yellow"), str(warning)) for warning in border_warnings(board)]


def _workers(board: Board) -> Page:
    last = progress.last_trials(board)
    return [tables.workers(last)] if last else []


def files(board: Board, folder: Path) -> list[Line]:
    """Return where things are."""
    return [
        line(f"checkpoints  {location.address(board.store, folder, board.name)}/trials"),
        line(f"ledger       {folder / LEDGER}"),
    ]


def final(board: Board, folder: Path) -> Page:
    """Return what a run ends with: leaderboard, failures, diagnosis, ensemble, where all is."""
    from scattershot_master.show.diagnosis_study import summary  # `status` needs none of it

    best = progress.leaders(board, 1)
    return [
        *section("the best trials", tables.top(board, TOP)),
        *section("best trial", best_trial(board, best[0], folder) if best else []),
        *section("failures", tables.failures(progress.failures(board))),
        *section("warnings", warnings(board)),
        *section("diagnosis", summary(board, folder)),
        *section("ensemble", tables.ensemble(board.ensemble) if board.ensemble else []),
        line(),
        line(*counts(board), f"; {text.duration(progress.elapsed(board, time.time()))}"),
        line("everything is in ", Cell(str(folder), "bold"), *_but(board, folder)),
    ]


def _but(board: Board, folder: Path) -> list[str]:
    if board.store is None:
        return []
    return [f", its checkpoints in {location.address(board.store, folder, board.name)}"]
