"""Owns the `digits` task: 1,797 scans of 8×8 pixels that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scattershot.task import Data, Task
from scattershot_worker.tasks.mlp import mlp

_TRAIN, _VAL = 1077, 360  # and 360 for the test


class Digits(Task):
    """Handwritten digits, 10 classes; hyperparameters of the model: `hidden`, `layers`, `dropout`.

    Split once and for all into 1,077 training, 360 validation and 360 test images.
    """

    def data(self) -> Data:
        """Return pixels [N, 64], centred by the training part's mean, and labels [N]."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(231))
        x = torch.as_tensor(images, dtype=torch.float32)[order] / 16
        y = torch.as_tensor(labels, dtype=torch.int64)[order]
        x -= x[:_TRAIN].mean(0)
        parts = [slice(0, _TRAIN), slice(_TRAIN, _TRAIN + _VAL), slice(_TRAIN + _VAL, None)]
        train, val, test = ((x[part], y[part]) for part in parts)
        return Data(train, val, test)

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        """Return a fully connected network."""
        return mlp(64, 10, params)
