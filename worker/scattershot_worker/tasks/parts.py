"""Owns how the built-in tasks find their files and part their examples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data

#: The same in every version: the parts of a task never change.
_SEED = 231


def shuffled(count: int) -> Tensor:
    """Return the numbers below `count` in the order that examples are parted in."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))


def split(x: Tensor, y: Tensor, train: int, val: int) -> Data:
    """Return the first `train` examples, the next `val`, and the rest as the test part."""
    parts = [slice(0, train), slice(train, train + val), slice(train + val, None)]
    first, second, third = ((x[part], y[part]) for part in parts)
    return Data(first, second, third)


def data_folder(given: Path | None, task: str) -> Path:
    """Return the folder of a task's files: `given`, else $SCATTERSHOT_DATA/task, else data/task."""
    return given or Path(os.environ.get("SCATTERSHOT_DATA", "data")) / task


def told_missing(task: str, what: str, missing: Sequence[str], folder: Path) -> TaskError:
    """Return the error that names the files of `task` which are not in `folder`."""
    return TaskError(
        f"{task} needs {what}; {', '.join(missing)} not found in {folder.absolute()}: "
        "put them there, or name their folder in [study] data"
    )
