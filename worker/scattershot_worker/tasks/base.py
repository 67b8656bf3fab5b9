"""Base of the built-in tasks: the split of their examples, their files, and image tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scattershot_common.errors import TaskError
from scattershot_common.task.task import Data, Task
from scattershot_worker.tasks.models import IMAGES, choose

#: The same in every version: the split of a task never changes.
_SEED = 231


def shuffled(count: int) -> Tensor:
    """Return the numbers below `count` in the order in which examples are split."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))


def split(x: Tensor, y: Tensor, train: int, val: int) -> Data:
    """Return the first `train` examples, the next `val`, and the rest as the test part."""
    parts = [slice(0, train), slice(train, train + val), slice(train + val, None)]
    first, second, third = ((x[part], y[part]) for part in parts)
    return Data(first, second, third)


def data_folder(folder: Path | None, task: str) -> Path:
    """Return a task's folder: `folder`, else $SCATTERSHOT_DATA/task, else data/task."""
    return folder or Path(os.environ.get("SCATTERSHOT_DATA", "data")) / task


def missing_files(task: str, files: str, missing: Sequence[str], folder: Path) -> TaskError:
    """Return the error that names the files of `task` that are missing in `folder`."""
    return TaskError(
        f"{task} needs {files}; {', '.join(missing)} not found in {folder.absolute()}: "
        "put them there, or name their folder in [study] data"
    )


class ImageTask(Task):
    """A task whose examples are images of `shape`, flat or not, in `classes` classes."""

    #: Channels, height, width.
    shape: ClassVar[tuple[int, int, int]]
    classes: ClassVar[int] = 10

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        """Return the network that `params["model"]` names: mlp (the default), linear, cnn, resnet.

        Each of them in `models.vision` documents what else it reads: `hidden`, `layers`,
        `dropout`, `channels`, `blocks`.

        Raises:
            TaskError: there is no network of that name.
        """
        return choose(IMAGES, params, "mlp")(self.shape, self.classes, params)
