"""The table of known values that common has, against those that the worker decides by."""

from __future__ import annotations

from typing import Any

import pytest

from scattershot_common.study.known_values import MODELS, NUMBERS, VALUES
from scattershot_common.task.task import Task
from scattershot_common.task.task_names import named_tasks
from scattershot_worker.attempt.task_loader import load_task
from scattershot_worker.tasks.models import IMAGES, TABULAR, TEXT
from scattershot_worker.training import hyperparameters, optimizers
from scattershot_worker.training.initialization import INITIALIZATIONS
from scattershot_worker.training.schedules import SCHEDULES


def test_the_values_are_those_that_the_trainer_takes() -> None:
    taken = {
        "optimizer": optimizers.OPTIMIZERS,
        "schedule": (*SCHEDULES,),
        "init": ("default", *INITIALIZATIONS),
        "precision": hyperparameters.PRECISIONS,
    }
    assert taken == {**VALUES}


def test_the_numbers_are_all_that_the_trainer_reads() -> None:
    checks: dict[str, Any] = {**hyperparameters._CHECKS, **optimizers._CHECKS}
    switches = {name for name, check in checks.items() if check[0](True)}
    assert {*NUMBERS} == {*checks} - switches - {*VALUES}


def test_the_built_in_tasks_have_these_networks_and_the_trainers_optimizers() -> None:
    assert {*MODELS} == {*named_tasks()}
    assert MODELS["digits"] == (*IMAGES,)
    assert MODELS["unicode_names"] == (*TEXT,)
    assert MODELS["diabetes"] == (*TABULAR,)


@pytest.mark.parametrize("name", MODELS)
def test_no_built_in_task_makes_its_own_optimizer(name: str) -> None:
    task = load_task(name, None)
    assert isinstance(task, Task)
    assert type(task).optimizer is Task.optimizer
