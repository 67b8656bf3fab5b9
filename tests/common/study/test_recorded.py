"""The settings that a ledger holds are read as the study file's were."""

from typing import Any

import pytest

from scattershot_common.study import recorded_settings, settings
from scattershot_common.study.recorded_settings import StudySettings
from scattershot_common.study.settings import StudyFile

MINIMAL: dict[str, Any] = {
    "study": {"name": "digits", "task": "digits"},
    "space": {"lr": {"loguniform": [1e-4, 1.0]}},
    "stage": [{"name": "coarse", "trials": 9, "epochs": 4}],
}
WHOLE: dict[str, Any] = {
    "study": {
        "name": "digits",
        "task": "tasks:Mine",
        "metric": "val_loss",
        "goal": "minimize",
        "seed": 7,
        "sampler": "sobol",
        "data": "here",
    },
    "space": {"lr": {"loguniform": [1e-4, 1.0]}, "hidden": 64},
    "stage": [
        {"name": "coarse", "trials": 9, "epochs": 4},
        {"name": "fine", "trials": 5, "epochs": 6, "refine": 0.5, "kill": "none"},
        {"name": "final", "continue": 2, "epochs": 8, "kill": ["median"], "sampler": "random"},
    ],
    "kill": {"rule": ["halving", "diverged"], "grace": 2, "eta": 4, "percentile": 10.0},
    "checkpoints": {"keep": 3, "store": "s3://bucket/here"},
    "ensemble": {"size": 7, "method": "top"},
    "worker": {"max_failures": 1, "threads": 4, "stall": 9.0, "monitors": False},
}
TABLES = ("kill", "checkpoints", "ensemble", "worker")


@pytest.mark.parametrize("tables", [MINIMAL, WHOLE])
@pytest.mark.parametrize("defaults_written", [True, False])
def test_every_setting_is_what_the_study_file_says(
    tables: dict[str, Any], defaults_written: bool
) -> None:
    file = StudyFile.model_validate(tables)
    dump = file.model_dump(mode="json", by_alias=True, exclude_defaults=not defaults_written)
    read = StudySettings(dump)
    study = file.study
    assert (read.name, read.task, read.seed, read.data) == (
        study.name,
        study.task,
        study.seed,
        study.data,
    )
    assert (read.objective.metric, read.objective.goal) == (study.metric, study.goal)
    assert read.space_table == file.space_table
    assert read.space.names == file.space.names
    for name in TABLES:
        assert getattr(read, name)._asdict() == getattr(file, name).model_dump()
    for index, stage in enumerate(file.stages):
        assert read.stages[index]._asdict() == stage.model_dump()
        assert read.stages[index].target == (stage.trials or stage.continue_)
        assert read.rules(index) == file.rules(stage)
        assert read.sampler(index) == file.sampler(stage)
    assert len(read.stages) == len(file.stages)


@pytest.mark.parametrize(
    ("read", "checked"),
    [
        (recorded_settings.StageSettings, settings.Stage),
        (recorded_settings.KillSettings, settings.Kill),
        (recorded_settings.CheckpointSettings, settings.Checkpoints),
        (recorded_settings.EnsembleSettings, settings.Ensemble),
        (recorded_settings.WorkerSettings, settings.Worker),
    ],
)
def test_no_setting_of_the_study_file_is_missing(read: Any, checked: Any) -> None:
    assert set(read._fields) == set(checked.model_fields)


def test_settings_of_a_later_version_are_passed_over() -> None:
    tables = {**MINIMAL, "kill": {"grace": 3, "later": 1}, "new": {}}
    tables["stage"] = [{**MINIMAL["stage"][0], "later": 2}]
    read = StudySettings(tables)
    assert (read.kill.grace, read.stages[0].name) == (3, "coarse")
