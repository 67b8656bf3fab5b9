"""A study's settings as its ledger has them: typed attributes, read without pydantic.

The settings were checked when the study began (`settings.StudyFile`). A ledger may be older than a
setting, so each has its default here as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from scattershot_common.objective import Goal, Objective

if TYPE_CHECKING:
    from scattershot_common.space.space import Space


class StageSettings(NamedTuple):
    """[[stage]]; see `settings.Stage`. `kill` and `sampler` None: those of the study hold."""

    name: str
    epochs: int
    trials: int | None = None
    refine: float | None = None
    continue_: int | None = None
    kill: tuple[str, ...] | None = None
    sampler: str | None = None

    @property
    def target(self) -> int:
        """The number of trials that the stage is to have."""
        return self.continue_ or self.trials or 0


class KillSettings(NamedTuple):
    """[kill]; see `settings.Kill`."""

    rule: tuple[str, ...] = ()
    grace: int = 1
    eta: int = 3
    percentile: float = 25.0
    patience: int = 5
    min_peers: int = 5
    factor: float = 10.0

    @property
    def options(self) -> dict[str, Any]:
        """All but the rules' names."""
        options = self._asdict()
        del options["rule"]
        return options


class CheckpointSettings(NamedTuple):
    """[checkpoints]; see `settings.Checkpoints`."""

    keep: int = 20
    store: str | None = None


class EnsembleSettings(NamedTuple):
    """[ensemble]; see `settings.Ensemble`."""

    size: int = 5
    method: str = "greedy"


class WorkerSettings(NamedTuple):
    """[worker]; see `settings.Worker`."""

    max_failures: int = 3
    recycle: int = 2000
    kill_grace: float = 5.0
    stall: float = 0.0
    threads: int = 1
    monitors: bool = True


@dataclass(frozen=True)
class StudySettings:
    """All settings of a study; `recorded` is what `StudyFile.model_dump` wrote to the ledger.

    >>> settings = StudySettings({"study": {"name": "digits", "metric": "val_loss"}})
    >>> settings.name, settings.objective.metric, settings.kill.grace
    ('digits', 'val_loss', 1)
    """

    recorded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The study's name, which is also its folder's."""
        return str(self._study["name"])

    @property
    def task(self) -> str:
        """The task's name, or "module:Class"."""
        return str(self._study["task"])

    @cached_property
    def objective(self) -> Objective:
        """The metric that trials are ranked by, and whether larger is better."""
        goal: Goal = "minimize" if self._study.get("goal") == "minimize" else "maximize"
        return Objective(str(self._study.get("metric", "val_accuracy")), goal)

    @cached_property
    def seed(self) -> int:
        """The seed that all random numbers of the study come from."""
        return int(self._study.get("seed", 0))

    @property
    def data(self) -> str | None:
        """The folder of the task's data as the study file names it."""
        data: str | None = self._study.get("data")
        return data

    @cached_property
    def space_table(self) -> Mapping[str, Any]:
        """[space] as it was written: the entry of each hyperparameter."""
        space: Mapping[str, Any] = self.recorded.get("space", {})
        return space

    @cached_property
    def space(self) -> Space:
        """The space that [space] describes."""
        from scattershot_common.space.space import Space

        return Space.parse(self.space_table)

    @cached_property
    def stages(self) -> tuple[StageSettings, ...]:
        """The stages in the order in which they open."""
        return tuple(_stage(table) for table in self.recorded.get("stage", ()))

    @cached_property
    def kill(self) -> KillSettings:
        """[kill]."""
        table = self.recorded.get("kill", {})
        rules = tuple(table.get("rule", ()))
        return KillSettings(**{**_known(KillSettings._fields, table), "rule": rules})

    @cached_property
    def checkpoints(self) -> CheckpointSettings:
        """[checkpoints]."""
        return CheckpointSettings(
            **_known(CheckpointSettings._fields, self.recorded.get("checkpoints", {}))
        )

    @cached_property
    def ensemble(self) -> EnsembleSettings:
        """[ensemble]."""
        return EnsembleSettings(
            **_known(EnsembleSettings._fields, self.recorded.get("ensemble", {}))
        )

    @cached_property
    def worker(self) -> WorkerSettings:
        """[worker]."""
        return WorkerSettings(**_known(WorkerSettings._fields, self.recorded.get("worker", {})))

    def rules(self, stage: int) -> tuple[str, ...]:
        """Return the killers' names that hold in stage `stage`; empty when nothing is killed."""
        own = self.stages[stage].kill
        return self.kill.rule if own is None else own

    def sampler(self, stage: int) -> str:
        """Return the name of the sampler that draws the points of stage `stage`."""
        return self.stages[stage].sampler or str(self._study.get("sampler", "random"))

    @property
    def _study(self) -> Mapping[str, Any]:
        study: Mapping[str, Any] = self.recorded.get("study", {})
        return study


def _stage(table: Mapping[str, Any]) -> StageSettings:
    kill = table.get("kill")
    settings = StageSettings(**_known(StageSettings._fields, table))
    return settings._replace(
        continue_=table.get("continue"), kill=None if kill is None else tuple(kill)
    )


def _known(keys: Sequence[str], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a table; those of a later version are passed over."""
    return {key: table[key] for key in keys if key in table}
