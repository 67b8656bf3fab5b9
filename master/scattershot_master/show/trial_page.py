"""`show TRIAL`: what the ledger and the checkpoints hold of a trial, its page and its data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scattershot_common.errors import CheckpointError, ScattershotError
from scattershot_common.store.checkpoint_header import Header
from scattershot_common.store.checkpoint_names import parse_name, trial_key
from scattershot_common.store.layer_stats import LayerStats
from scattershot_common.store.local import LocalStore
from scattershot_common.store.store import Store
from scattershot_common.study.recorded_settings import StudySettings
from scattershot_master import text
from scattershot_master.export.data import CheckpointPaths, trial_data
from scattershot_master.show import tables
from scattershot_master.show.layout import Cell, Page, Table, TextLine, line, section
from scattershot_master.state.events import EpochReported
from scattershot_master.state.ledger import LEDGER, read
from scattershot_master.state.study_state import StudyState, TrialRecord

#: The number of lines shown of a failed trial's traceback, the last ones.
TRACEBACK_LINES = 15


@dataclass(slots=True)
class TrialView:
    """One trial. Where the ledger does not have it (`recorded` is false), its state is unknown."""

    state: StudyState
    record: TrialRecord
    recorded: bool
    #: The paths or URLs of its checkpoints, by epoch, and why some of them cannot be read.
    checkpoints: Sequence[str] = ()
    damage: Sequence[str] = ()
    #: The end of the traceback, where the trial failed.
    error: Sequence[str] = ()
    #: Why its checkpoints could not be listed.
    unreachable: str = ""
    #: The records of its layers.
    layers: Sequence[Mapping[str, Any]] = ()


def read_trial(folder: Path, number: int) -> TrialView:
    """Return trial `number` of the study in `folder`, from its checkpoints and the ledger.

    Either is enough: a checkpoint's header has the history up to its epoch.

    Raises:
        ScattershotError: neither has such a trial; says which there are.
    """
    has_ledger = (folder / LEDGER).exists()
    state = read(folder) if has_ledger else StudyState()
    files = _TrialFiles(state, folder, number)
    names, unreachable = files.names()
    header, damage = files.newest_header(names)
    recorded = number in state.trials
    if not recorded:
        if header is None:
            raise ScattershotError(damage[0] if damage else files.no_such_trial())
        if not has_ledger:
            study = {"name": header["study"], "metric": header["metric"], "goal": header["goal"]}
            state.settings = StudySettings({"study": study})
        state.trials[number] = _record(header)
    record = state.trials[number]
    if header is not None:
        by_epoch = {parsed.epoch: name for name in names if (parsed := parse_name(name))}
        for line in header["history"]:  # epochs that the ledger has change nothing
            epoch = int(line["epoch"])
            metrics = {name: value for name, value in line.items() if name != "epoch"}
            state.apply(EpochReported(number, 0, epoch, metrics, by_epoch.get(epoch)))
    return TrialView(
        state,
        record,
        recorded,
        [files.store.path_of(trial_key(number, name)) for name in names],
        damage,
        files.traceback() if record.state == "failed" or not recorded else (),
        unreachable,
        () if unreachable else files.layers(),
    )


@dataclass(frozen=True)
class _TrialFiles:
    """The files of one trial in its study's store."""

    state: StudyState
    folder: Path
    number: int

    @property
    def store(self) -> Store:
        """The study's store, in its folder where no ledger names another; may raise."""
        if self.state.settings.recorded:
            return self.state.checkpoints(self.folder)
        return LocalStore(self.folder)

    def names(self) -> tuple[Sequence[str], str]:
        """Return the checkpoints' names; or none, and why the store did not list them."""
        try:
            return self.store.checkpoints(self.number), ""
        except CheckpointError as error:
            if self.number not in self.state.trials:
                raise
            return (), str(error)

    def newest_header(self, names: Sequence[str]) -> tuple[Header | None, list[str]]:
        """Return the newest header that can be read, and why newer ones cannot."""
        damage: list[str] = []
        for name in reversed(names):
            try:
                return self.store.header(trial_key(self.number, name)), damage
            except CheckpointError as error:
                damage.append(str(error))
        return None, damage

    def layers(self) -> Sequence[Mapping[str, Any]]:
        """Return the records of the trial's layers; none where they cannot be read."""
        try:
            return LayerStats.read(self.store, self.number).lines
        except CheckpointError:
            return ()

    def traceback(self) -> Sequence[str]:
        """Return the end of the trial's traceback, if it left one."""
        try:
            error = self.store.read(trial_key(self.number, "error.txt")).decode(errors="replace")
        except CheckpointError:
            return ()
        return error.rstrip().splitlines()[-TRACEBACK_LINES:]

    def no_such_trial(self) -> str:
        """Return the message that says which trials there are."""
        numbers = sorted(self.state.trials) or self.store.trials()
        which = f"it has {numbers[0]} to {numbers[-1]}" if numbers else "it has none yet"
        return f"there is no trial {self.number} in {self.folder}: {which}"


def _record(header: Header) -> TrialRecord:
    fields: Mapping[str, Any] = header
    return TrialRecord(
        header["trial"],
        str(fields.get("stage", "")),
        header["params"],
        header["seed"],
        epochs=header["epoch"],
        until=header["epoch"],
        attempts=header["attempt"],
    )


def trial_view_data(view: TrialView, folder: Path) -> dict[str, Any]:
    """Return the trial as `export` has it, with its "error" and its "checkpoints"."""
    data = trial_data(view.record, CheckpointPaths(view.state, folder))
    if not view.recorded:
        data["state"] = None
    in_folder = view.state.store is None
    return {
        **data,
        "error": "\n".join(view.error),
        "checkpoints": [
            Path(path).relative_to(folder).as_posix() if in_folder else path
            for path in view.checkpoints
        ],
    }


def trial_page(view: TrialView) -> Page:
    """Return the page about one trial; its hyperparameters are exact, to be used again."""
    trial, metric = view.record, view.state.objective.metric
    epochs = f"{trial.done}/{trial.epochs} epochs" if view.recorded else f"{trial.done} epochs"
    blocks: list[TextLine | Table] = [
        line(
            Cell(f"trial {trial.number}", "bold"),
            " · ",
            tables.trial_state(trial.state)
            if view.recorded
            else Cell("state unknown: no ledger", "dim"),
            f" · {epochs}{trial.stage and f' · stage {trial.stage}'} · study {view.state.name}",
        )
    ]
    if trial.reason:
        blocks.append(line(text.one_line(trial.reason)))
    blocks += section("hyperparameters", [tables.exact_params(trial.params)])
    blocks += [line(), line(Cell(_training(trial), "dim"))]
    if trial.history:
        blocks += section(metric, _curve(trial, metric))
        blocks += [line(), tables.history(trial.history, metric, trial.best_epoch)]
    blocks += section("diagnosis", _diagnosis(view))
    blocks += section("error", [line(text.clean(error)) for error in view.error])
    blocks += section("checkpoints", [line(path) for path in view.checkpoints])
    blocks += [line(Cell("damaged ", "red"), damage) for damage in view.damage]
    blocks += [line(Cell("not seen ", "red"), view.unreachable)] if view.unreachable else []
    return blocks


def _diagnosis(view: TrialView) -> list[TextLine]:
    """Return the rules' findings in the trial; `diagnose` shows more."""
    from scattershot_master.diagnosis.diagnose import diagnose
    from scattershot_master.diagnosis.read_cases import trial_case
    from scattershot_master.show.diagnosis_trial import finding_lines

    return finding_lines(diagnose(trial_case(view.state, view.record, view.layers)))


def _training(trial: TrialRecord) -> str:
    parts = [f"seed {trial.seed}"]
    if trial.attempts:
        parts.append(text.plural(trial.attempts, "attempt"))
    if trial.worker:
        parts.append(f"worker {text.one_line(trial.worker)}")
    if not math.isnan(trial.ended - trial.started):
        parts.append(f"{text.duration(trial.ended - trial.started)} from start to end")
    first = trial.history[0] if trial.history else {}
    labels = ("first loss", "at chance")
    parts += [
        f"{label} {text.metric(first[name])}"
        for label, name in zip(labels, tables.INITIAL_LOSSES, strict=True)
        if name in first
    ]
    return " · ".join(parts)


def _curve(trial: TrialRecord, metric: str) -> list[TextLine]:
    """Return the metric's curve in a line; epochs that lack the metric are gaps in it."""
    values = [epoch.get(metric, math.nan) for epoch in trial.history]
    ends = f"  {text.metric(values[0])} → {text.metric(values[-1])}"
    best = f", best {text.metric(trial.best_value)} at epoch {trial.best_epoch}"
    return [line(Cell(text.sparkline(values), "cyan"), ends, best if trial.best_epoch else "")]
