"""The checks before learning by name; `task.check_result` lists them for the master."""

from scattershot_worker.checks import (
    data,
    gradients,
    initial_loss,
    learning,
    lr_range_test,
    options,
    overfit,
    regularization,
)
from scattershot_worker.checks.task_under_test import Check

CHECKS: dict[str, Check] = {
    "data": data.check,
    "initial_loss": initial_loss.check,
    "regularization": regularization.check,
    "options": options.check,
    "gradients": gradients.check,
    "overfit": overfit.check,
    "learning": learning.check,
    "rates": lr_range_test.check,
}
