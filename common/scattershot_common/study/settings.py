"""Settings of a study: every key of a study file, its type, bounds and default."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import cached_property
from hashlib import blake2b
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from scattershot_common.objective import Goal, Objective
from scattershot_common.space.space import Space
from scattershot_common.store.checkpoint_names import STUDY_NAME

Sampler = Literal["random", "sobol"]
Rule = Literal["halving", "sync_halving", "median", "percentile", "diverged", "patience"]
#: The killers' names; a study file may also say "none".
RULES: tuple[Rule, ...] = get_args(Rule)

#: A name that is also a safe folder name.
Name = Annotated[str, StringConstraints(pattern=f"^{STUDY_NAME}$")]


def _rules(value: object) -> object:
    """Convert a single rule to a list of one, and "none" to an empty list."""
    listed = [value] if isinstance(value, str) else value
    return () if listed == ["none"] else _tuple(listed)


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Rules = Annotated[tuple[Rule, ...], BeforeValidator(_rules)]


class _Table(BaseModel):
    """A table of the study file: strict types, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=True
    )


class Study(_Table):
    """[study]: the task, the objective and the seed.

    `data` is the folder of the task's data, relative to the file's.
    """

    name: Name
    task: str
    metric: Annotated[str, Field(min_length=1)] = "val_accuracy"
    goal: Goal = "maximize"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    sampler: Sampler = "random"
    data: str | None = None

    @property
    def objective(self) -> Objective:
        """The metric that trials are ranked by, and its goal."""
        return Objective(self.metric, self.goal)


class Stage(_Table):
    """[[stage]]: new points (`trials`, perhaps in a refined box) or `continue` the best so far.

    `epochs` is the total number of epochs of a complete trial of this stage. `refine` is the
    fraction (0, 1] of the trials so far that the box encloses. `kill` and `sampler` override
    [kill].rule and [study].sampler in this stage; see `StudyFile.rules` and `StudyFile.sampler`.
    """

    name: Name
    epochs: Annotated[int, Field(ge=1)]
    trials: Annotated[int, Field(ge=1)] | None = None
    refine: Annotated[float, Field(gt=0, le=1)] | None = None
    continue_: Annotated[int, Field(ge=1)] | None = Field(
        None, validation_alias="continue", serialization_alias="continue"
    )
    kill: Rules | None = None
    sampler: Sampler | None = None


class Kill(_Table):
    """[kill]: the rules that end or pause trials, after `grace` epochs at the earliest.

    `rule` is a tuple, empty where the file says "none". `eta` belongs to the halving
    rules, `percentile` (of the peers, from the worst) to percentile, `patience` (epochs without
    a better value) to patience, `min_peers` to median and percentile, and `factor` to diverged:
    a loss above `factor` times the trial's first.
    """

    rule: Rules = ()
    grace: Annotated[int, Field(ge=1)] = 1
    eta: Annotated[int, Field(ge=2)] = 3
    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    patience: Annotated[int, Field(ge=1)] = 5
    min_peers: Annotated[int, Field(ge=1)] = 5
    factor: Annotated[float, Field(gt=1)] = 10.0


#: The keys of [kill] that only some rules read, and which.
RULE_KEYS: dict[str, tuple[Rule, ...]] = {
    "eta": ("halving", "sync_halving"),
    "percentile": ("percentile",),
    "patience": ("patience",),
    "min_peers": ("median", "percentile"),
    "factor": ("diverged",),
}


def unread_keys(rules: Collection[str]) -> list[str]:
    """Return the keys of [kill] that none of `rules` reads."""
    return [key for key, readers in RULE_KEYS.items() if not {*readers} & {*rules}]


class Checkpoints(_Table):
    """[checkpoints]: `keep` is the number of the study's best checkpoints to keep.

    `store` is the URL of an object store for them; by default they are in the study's folder.
    """

    keep: Annotated[int, Field(ge=1)] = 20
    store: Annotated[str, Field(min_length=1)] | None = None


class Ensemble(_Table):
    """[ensemble]: the number of members, and the method that chooses them."""

    size: Annotated[int, Field(ge=1)] = 5
    method: Literal["greedy", "top"] = "greedy"


class Worker(_Table):
    """[worker]: limits of a worker's child process, and what it records.

    A trial has failed after `max_failures` failed attempts; a child is replaced after `recycle`
    trials; a child that does not react to a kill within `kill_grace` seconds is ended, and so is
    one whose trial finishes no batch and reports nothing for `stall` seconds (0: no limit);
    `threads` are torch's for each worker; with `monitors`, gradients, updates and activations
    are recorded for `scattershot diagnose`.
    """

    max_failures: Annotated[int, Field(ge=1)] = 3
    recycle: Annotated[int, Field(ge=1)] = 2000
    kill_grace: Annotated[float, Field(gt=0)] = 5.0
    stall: Annotated[float, Field(ge=0)] = 0.0
    threads: Annotated[int, Field(ge=1)] = 1
    monitors: bool = True


class StudyFile(_Table):
    """A whole study file.

    `model_validate` reads what `model_dump(mode="json", by_alias=True)` returns.

    Read files with `study_file`, which also checks keys against each other.
    """

    study: Study
    space_table: dict[str, Any] = Field(validation_alias="space", serialization_alias="space")
    stages: Annotated[tuple[Stage, ...], BeforeValidator(_tuple), Field(min_length=1)] = Field(
        validation_alias="stage", serialization_alias="stage"
    )
    kill: Kill = Kill()
    checkpoints: Checkpoints = Checkpoints()
    ensemble: Ensemble = Ensemble()
    worker: Worker = Worker()

    @cached_property
    def space(self) -> Space:
        """The space that [space] describes."""
        return Space.parse(self.space_table)

    def rules(self, stage: Stage) -> tuple[Rule, ...]:
        """Return the names of the killers of `stage`; empty where nothing is killed."""
        return self.kill.rule if stage.kill is None else stage.kill

    def sampler(self, stage: Stage) -> Sampler:
        """Return the name of the sampler that draws the points of `stage`."""
        return stage.sampler or self.study.sampler

    def identity(self) -> str:
        """Return a hash of everything that determines the trials.

        These are [study], [space], the stages and [kill]. The data's folder is left out: it may
        differ between machines; and so are keys of [kill] that no stage's rule reads. A default
        written out hashes as one left out. The order of the
        dimensions is part of the hash: coordinates of a point belong to dimensions by position.
        """
        rules = {rule for stage in self.stages for rule in self.rules(stage)}
        decides = {
            "study": self.study.model_dump(exclude_defaults=True, exclude={"data"}),
            "space": [
                [name, json.dumps(entry, sort_keys=True)]
                for name, entry in self.space_table.items()
            ],
            "stages": [stage.model_dump(exclude_defaults=True) for stage in self.stages],
            "kill": self.kill.model_dump(exclude_defaults=True, exclude={*unread_keys(rules)}),
        }
        text = json.dumps(decides, sort_keys=True)
        return blake2b(text.encode(), digest_size=8).hexdigest()
