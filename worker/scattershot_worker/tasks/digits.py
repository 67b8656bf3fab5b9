"""The `digits` task: 1,797 scans of 8×8 pixels that come with scikit-learn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from scattershot_common.task.task import Data
from scattershot_worker.tasks.base import ImageTask, shuffled, split

_TRAIN, _VAL = 1077, 360  # and 360 for the test


class Digits(ImageTask):
    """Handwritten digits, 10 classes; the hyperparameters are those of `ImageTask.model`.

    Always split into 1,077 training, 360 validation and 360 test images.
    """

    shape = (1, 8, 8)

    def data(self) -> Data:
        """Return pixels [N, 64], centred by the training part's mean, and labels [N]."""
        images, labels = _digits()
        order = shuffled(len(images))
        x = torch.as_tensor(images, dtype=torch.float32)[order] / 16
        y = torch.as_tensor(labels, dtype=torch.int64)[order]
        x -= x[:_TRAIN].mean(0)
        return split(x, y, _TRAIN, _VAL)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels [N, 64] and labels [N] that `sklearn.datasets.load_digits` does.

    Its file is read directly if it is found: importing scikit-learn takes most of a second.
    """
    spec = find_spec("sklearn")
    path = (
        Path(spec.origin).parent / "datasets/data/digits.csv.gz" if spec and spec.origin else None
    )
    if path is not None and path.is_file():
        table = np.loadtxt(path, delimiter=",")
        return table[:, :-1], table[:, -1].astype(int)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels
