"""Owns what the tasks with images share: their networks, chosen by a hyperparameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from scattershot_common.task.task import Task
from scattershot_worker.tasks.models import IMAGES
from scattershot_worker.tasks.models.choice import choose


class ImageTask(Task):
    """A task whose examples are images of `shape`, flat or not, in `classes` classes."""

    #: Channels, height, width.
    shape: ClassVar[tuple[int, int, int]]
    classes: ClassVar[int] = 10

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        """Return the network that `params["model"]` names: mlp (the default), linear, cnn, resnet.

        What else it reads stands with each of them in `models`: `hidden`, `layers`, `dropout`,
        `channels`, `blocks`.

        Raises:
            TaskError: there is no network of that name.
        """
        return choose(IMAGES, params, "mlp")(self.shape, self.classes, params)
