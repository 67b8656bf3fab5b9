"""Owns the table of the checks before learning; `scattershot.checks` lists them for the master."""

from scattershot_worker.checks import (
    data,
    gradients,
    initial_loss,
    learning,
    options,
    overfit,
    rates,
    regularization,
)
from scattershot_worker.checks.subject import Check

CHECKS: dict[str, Check] = {
    "data": data.check,
    "initial_loss": initial_loss.check,
    "regularization": regularization.check,
    "options": options.check,
    "gradients": gradients.check,
    "overfit": overfit.check,
    "learning": learning.check,
    "rates": rates.check,
}
