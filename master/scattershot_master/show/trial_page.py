"""Owns `show TRIAL`: what a trial's checkpoints and the ledger know of it, and its page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scattershot_common.errors import CheckpointError, ScattershotError
from scattershot_common.store.checkpoint_header import Header
from scattershot_common.store.checkpoint_names import parse_name, trial_key
from scattershot_common.store.layer_stats import LayerStats
from scattershot_common.store.local import LocalStore
from scattershot_common.store.store import Store
from scattershot_common.study.recorded import StudySettings
from scattershot_master import text as words
from scattershot_master.export.data import CheckpointPaths, trial_data
from scattershot_master.show import tables
from scattershot_master.show.layout import Cell, Page, Table, TextLine, line, section
from scattershot_master.state.events import EpochReported
from scattershot_master.state.ledger import LEDGER, read
from scattershot_master.state.study_state import StudyState, TrialRecord

#: So many of the last lines of a failed trial's traceback are shown.
TAIL = 15


@dataclass(slots=True)
class TrialView:
    """All that is known of one trial; without a ledger (`known` is false) its state is not."""

    state: StudyState
    record: TrialRecord
    known: bool
    #: The paths or URLs of its checkpoints, by epoch, and why some of them cannot be read.
    files: Sequence[str] = ()
    damage: list[str] = field(default_factory=list)
    #: The end of the traceback, where the trial failed.
    error: list[str] = field(default_factory=list)
    #: Why it is not known which checkpoints there are.
    trouble: str = ""
    #: What was seen of its layers.
    layers: Sequence[Mapping[str, Any]] = ()


def find(folder: Path, number: int) -> TrialView:
    """Return trial `number` of the study in `folder`, from its checkpoints and the ledger.

    Either is enough: a checkpoint's header has the history up to its epoch.

    Raises:
        ScattershotError: neither knows such a trial; says which there are.
    """
    known = (folder / LEDGER).exists()
    state = read(folder) if known else StudyState()
    names, trouble = _names(state, folder, number)
    header, damage = _newest_header(state, folder, number, names)
    if number not in state.trials:
        if header is None:
            raise ScattershotError(_unknown(folder, number, state, damage))
        if not known:
            about = {"name": header["study"], "metric": header["metric"], "goal": header["goal"]}
            state.settings = StudySettings({"study": about})
        state.trials[number] = _record(header)
        known = False
    record = state.trials[number]
    if header is not None:
        by_epoch = {parsed.epoch: name for name in names if (parsed := parse_name(name))}
        for epoch in header["history"]:  # those the ledger has already change nothing
            done = int(epoch["epoch"])
            metrics = {name: value for name, value in epoch.items() if name != "epoch"}
            state.apply(EpochReported(number, 0, done, metrics, by_epoch.get(done)))
    error = _traceback(state, folder, number) if record.state == "failed" or not known else []
    layers = () if trouble else _layers(state, folder, number)
    files = [_checkpoints(state, folder).path_of(trial_key(number, name)) for name in names]
    return TrialView(state, record, known, files, damage, error, trouble, layers)


def _names(state: StudyState, folder: Path, number: int) -> tuple[Sequence[str], str]:
    try:
        return _checkpoints(state, folder).checkpoints(number), ""
    except CheckpointError as error:
        if number not in state.trials:
            raise
        return (), str(error)


def _checkpoints(state: StudyState, folder: Path) -> Store:
    return state.checkpoints(folder) if state.settings.recorded else LocalStore(folder)


def _layers(state: StudyState, folder: Path, number: int) -> Sequence[Mapping[str, Any]]:
    try:
        return LayerStats.read(_checkpoints(state, folder), number).lines
    except CheckpointError:
        return ()


def _newest_header(
    state: StudyState, folder: Path, number: int, names: Sequence[str]
) -> tuple[Header | None, list[str]]:
    damage: list[str] = []
    for name in reversed(names):
        try:
            return _checkpoints(state, folder).header(trial_key(number, name)), damage
        except CheckpointError as error:
            damage.append(str(error))
    return None, damage


def _record(header: Header) -> TrialRecord:
    about: dict[str, Any] = {**header}
    return TrialRecord(
        header["trial"],
        str(about.get("stage", "")),
        header["params"],
        header["seed"],
        epochs=header["epoch"],
        until=header["epoch"],
        attempts=header["attempt"],
    )


def _unknown(folder: Path, number: int, state: StudyState, damage: list[str]) -> str:
    if damage:
        return damage[0]
    there = sorted(state.trials)
    if not there:
        there = _checkpoints(state, folder).trials()
    having = f"it has {there[0]} to {there[-1]}" if there else "it has none yet"
    return f"there is no trial {number} in {folder}: {having}"


def _traceback(state: StudyState, folder: Path, number: int) -> list[str]:
    try:
        key = trial_key(number, "error.txt")
        text = _checkpoints(state, folder).read(key).decode(errors="replace")
    except CheckpointError:
        return []
    return text.rstrip().splitlines()[-TAIL:]


def data(found: TrialView, folder: Path) -> dict[str, Any]:
    """Return the trial as `export` has it, with its "error" and its "checkpoints"."""
    whole = trial_data(found.record, CheckpointPaths(found.state, folder))
    if not found.known:
        whole["state"] = None
    return {
        **whole,
        "error": "\n".join(found.error),
        "checkpoints": [
            Path(path).relative_to(folder).as_posix() if found.state.store is None else path
            for path in found.files
        ],
    }


def page(found: TrialView) -> Page:
    """Return the page about one trial; its hyperparameters are exact, to be used again."""
    trial, metric = found.record, found.state.metric
    epochs = f"{trial.done}/{trial.epochs} epochs" if found.known else f"{trial.done} epochs"
    blocks: list[TextLine | Table] = [
        line(
            Cell(f"trial {trial.number}", "bold"),
            " · ",
            tables.trial_state(trial.state)
            if found.known
            else Cell("state unknown: no ledger", "dim"),
            f" · {epochs}{trial.stage and f' · stage {trial.stage}'} · study {found.state.name}",
        )
    ]
    if trial.reason:
        blocks.append(line(words.one_line(trial.reason)))
    blocks += section("hyperparameters", [tables.exact_params(trial.params)])
    blocks += [line(), line(Cell(_training(trial), "dim"))]
    if trial.history:
        blocks += section(metric, _curve(trial, metric))
        blocks += [line(), tables.history(trial.history, metric, trial.best_epoch)]
    blocks += section("diagnosis", _diagnosis(found))
    blocks += section("error", [line(words.clean(text)) for text in found.error])
    blocks += section("checkpoints", [line(path) for path in found.files])
    blocks += [line(Cell("damaged ", "red"), text) for text in found.damage]
    blocks += [line(Cell("not seen ", "red"), found.trouble)] if found.trouble else []
    return blocks


def _diagnosis(found: TrialView) -> list[TextLine]:
    """Return the rules' findings in the trial; `diagnose` shows more."""
    from scattershot_master.diagnosis.diagnose import diagnose
    from scattershot_master.diagnosis.read_cases import trial_case
    from scattershot_master.show.diagnosis_trial import finding_lines

    return finding_lines(diagnose(trial_case(found.state, found.record, found.layers)))


def _training(trial: TrialRecord) -> str:
    parts = [f"seed {trial.seed}"]
    if trial.attempts:
        parts.append(words.plural(trial.attempts, "attempt"))
    if trial.worker:
        parts.append(f"worker {words.one_line(trial.worker)}")
    if not math.isnan(trial.ended - trial.started):
        parts.append(f"{words.duration(trial.ended - trial.started)} from start to end")
    first = trial.history[0] if trial.history else {}
    told = ("first loss", "at chance")
    parts += [
        f"{what} {words.metric(first[name])}"
        for what, name in zip(told, tables.INITIAL_LOSSES, strict=True)
        if name in first
    ]
    return " · ".join(parts)


def _curve(trial: TrialRecord, metric: str) -> list[TextLine]:
    """Return the metric's curve in a line; epochs that lack the metric are gaps in it."""
    values = [epoch.get(metric, math.nan) for epoch in trial.history]
    ends = f"  {words.metric(values[0])} → {words.metric(values[-1])}"
    best = f", best {words.metric(trial.best_value)} at epoch {trial.best_epoch}"
    return [line(Cell(words.sparkline(values), "cyan"), ends, best if trial.best_epoch else "")]
