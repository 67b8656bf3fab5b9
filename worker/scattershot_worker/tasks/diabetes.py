"""The `diabetes` task, a regression: 442 patients, data that comes with scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from scattershot_common.task.task import Data, Task
from scattershot_worker.tasks.base import shuffled, split
from scattershot_worker.tasks.models import TABULAR, choose

_TRAIN, _VAL = 266, 88  # and 88 for the test


class Diabetes(Task):
    """Disease progression after a year, from ten values at the start (Efron et al. 2004).

    Inputs and targets are standardized by the training part: an error (`val_rmse`) of 1 is that
    of always predicting the mean.
    """

    kind = "regression"

    def data(self) -> Data:
        """Return ten values [N, 10] and targets [N, 1]."""
        from sklearn.datasets import load_diabetes

        values, targets = load_diabetes(return_X_y=True, scaled=False)
        order = shuffled(len(values))
        x = torch.as_tensor(values)[order]
        y = torch.as_tensor(targets)[order, None]
        x, y = (_standardized(values, values[:_TRAIN]) for values in (x, y))
        return split(x, y, _TRAIN, _VAL)

    def model(self, params: Mapping[str, Any]) -> nn.Module:
        """Return the network that `params["model"]` names: mlp (the default) or linear.

        Raises:
            TaskError: there is no network of that name.
        """
        return choose(TABULAR, params, "mlp")((10,), 1, params)


def _standardized(values: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    deviation, mean = torch.std_mean(train, 0)
    return ((values - mean) / deviation).float()
