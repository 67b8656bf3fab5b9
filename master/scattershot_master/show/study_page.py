"""Pages about a whole study: `status`, and the end of a run."""

from __future__ import annotations

import time
from pathlib import Path

from scattershot_common.store import open_store
from scattershot_master import text
from scattershot_master.export.data import CheckpointPaths
from scattershot_master.show import tables
from scattershot_master.show.layout import Cell, Page, TextLine, line, section
from scattershot_master.state import progress
from scattershot_master.state.border_warnings import border_warnings
from scattershot_master.state.ledger import LEDGER
from scattershot_master.state.study_state import StudyState, TrialRecord

#: The number of trials that the end of a run lists.
TOP = 10


def status(state: StudyState, folder: Path, *, running: bool, now: float) -> Page:
    """Return the page about the state of a study; `now` is in seconds since 1970."""
    stages = progress.stages(state)
    best, objective = progress.leaders(state, 1), state.objective
    return [
        line(
            Cell(state.name, "bold"),
            f" · task {text.one_line(state.settings.task)} · {objective.goal} {objective.metric}"
            f" · seed {state.settings.seed}",
        ),
        line(*_activity(state, stages, running, now)),
        line(*counts(state)),
        *section("stages", tables.stages(stages)),
        *section("best trial", best_trial(state, best[0], folder) if best else []),
        *section("failures", tables.failures(progress.failures(state))),
        *section("warnings", warnings(state)),
        *section("ensemble", tables.ensemble(state.ensemble) if state.ensemble else []),
        *section("workers", _workers(state)),
        *section("files", files(state, folder)),
    ]


def _activity(
    state: StudyState, stages: list[progress.StageProgress], running: bool, now: float
) -> list[str | Cell]:
    elapsed = text.duration(progress.elapsed(state, now))
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.begun))
    if state.finished:
        return [Cell("finished", "green"), f" after {elapsed}, begun {begun}"]
    if not running:
        return [
            Cell("stopped", "yellow"),
            f", begun {begun}; to go on, run its study file again with the same output folder",
        ]
    left = progress.time_left(stages, progress.rate_from_ends(state, now))
    estimate = f", about {text.rough(left)} left" if left is not None else ""
    return [Cell("running", "cyan"), f" for {elapsed}{estimate}, begun {begun}"]


def counts(state: StudyState) -> list[str | Cell]:
    """Return the number of trials in each state, for a line."""
    parts: list[str | Cell] = [text.plural(len(state.trials), "trial")]
    for trial_state, count in progress.counts(state).items():
        if count:
            parts += [
                ", " if len(parts) > 1 else ": ",
                Cell(f"{count} {trial_state}", tables.STYLES[trial_state]),
            ]
    return parts


def best_trial(state: StudyState, trial: TrialRecord, folder: Path) -> list[TextLine]:
    """Return the lines about the study's best trial: value, hyperparameters, checkpoint."""
    return [
        line(
            f"trial {trial.number} ({trial.stage}, {trial.state}): {state.objective.metric} ",
            Cell(text.metric(trial.best_value), tables.BEST),
            f" at epoch {trial.best_epoch} of {trial.done}",
        ),
        line(tables.params(trial.params)),
        *_checkpoint(state, trial, folder),
    ]


def _checkpoint(state: StudyState, trial: TrialRecord, folder: Path) -> list[TextLine]:
    path = CheckpointPaths(state, folder)(trial)
    return [line(path if state.store else str(folder / path))] if path else []


def warnings(state: StudyState) -> list[TextLine]:
    """Return a line for every border warning."""
    return [line(Cell("border ", "yellow"), str(warning)) for warning in border_warnings(state)]


def _workers(state: StudyState) -> Page:
    last = progress.last_trials(state)
    return [tables.workers(last)] if last else []


def files(state: StudyState, folder: Path) -> list[TextLine]:
    """Return where checkpoints and ledger are."""
    return [
        line(f"checkpoints  {open_store.address(state.store, folder, state.name)}/trials"),
        line(f"ledger       {folder / LEDGER}"),
    ]


def final(state: StudyState, folder: Path) -> Page:
    """Return the page at the end of a run: leaderboard, failures, diagnosis, ensemble, files."""
    from scattershot_master.show.diagnosis_study import summary  # not needed by `status`

    best = progress.leaders(state, 1)
    return [
        *section("the best trials", tables.top(state, TOP)),
        *section("best trial", best_trial(state, best[0], folder) if best else []),
        *section("failures", tables.failures(progress.failures(state))),
        *section("warnings", warnings(state)),
        *section("diagnosis", summary(state, folder)),
        *section("ensemble", tables.ensemble(state.ensemble) if state.ensemble else []),
        line(),
        line(*counts(state), f"; {text.duration(progress.elapsed(state, time.time()))}"),
        line("everything is in ", Cell(str(folder), "bold"), *_store(state, folder)),
    ]


def _store(state: StudyState, folder: Path) -> list[str]:
    if state.store is None:
        return []
    return [f", its checkpoints in {open_store.address(state.store, folder, state.name)}"]
