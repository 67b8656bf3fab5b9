"""Rules on a loss that stops falling: the rate is too large to settle, or was lowered too early."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.text import number, percent

#: From this median ratio of updates to weights on, steps are large.
_LARGE = 4e-3
#: The part of the starting loss that must be left.
_LEFT = 0.05
#: The part of its falls by which the loss must have risen again.
_RISEN = 1 / 3
#: A drop: the rate falls to this part or less from one epoch to the next.
_DROP = 0.5
#: A smooth decay has gone far where this part of the largest rate is left.
_LOW = 0.1


def _plateau(case: TrialCase) -> str:
    losses = case.train_losses
    if len(losses) < 6 or case.ends_diverged or not case.constant_lr or case.loss_settled:
        return ""
    if case.val_loss_far_above or case.train_loss_above_val:
        return ""  # it fits its examples, or what is random about them keeps the loss up
    # the last epochs of a loss that jumps may be low by chance
    level = (
        fmean(losses[-max(2, len(losses) // 4) :]) / case.baseline_loss
        if case.baseline_loss > 0
        else 0.0
    )
    stalls = _LEFT < level < 0.9 and case.late_gain < 0.15 and case.early_gain > 0.05
    if not stalls or case.update_ratio is None or case.update_ratio < _LARGE:
        return ""
    falls = -sum(change for change in case.log_changes if change < 0)
    rises = sum(change for change in case.log_changes if change > 0)
    if rises <= _RISEN * falls:
        return ""
    rising = sum(change > 0 for change in case.log_changes)
    return (
        f"the loss rose again in {rising} of the last {len(case.log_changes)} epochs and ended at "
        f"{percent(level)} of where it started, with updates of {number(case.update_ratio)} of the "
        "weights"
    )


def _early_decay(case: TrialCase) -> str:
    lines = [line for line in case.history if "lr" in line and "train_loss" in line]
    if case.ends_diverged or case.baseline_loss <= 0:
        return ""
    unit, last = case.baseline_loss, len(lines) - 1
    for at, since in _drops([line["lr"] for line in lines]):
        before, after = lines[at - 1], lines[at]
        previous = lines[since]["train_loss"] if since >= 0 else unit
        fall_before = (previous - before["train_loss"]) / unit / (at - 1 - since)
        fall_after = (after["train_loss"] - lines[-1]["train_loss"]) / unit / (last - at)
        left = lines[-1]["train_loss"] / unit
        if fall_before > 0.02 and fall_after < 0.25 * fall_before and left > 0.15:
            largest = max(line["lr"] for line in lines[:at])
            return (
                f"by epoch {after['epoch']:.0f} the rate fell from {number(largest)} to "
                f"{number(after['lr'])} while the loss was falling; it then stood still at "
                f"{number(lines[-1]['train_loss'])}"
            )
    return ""


def _drops(rates: Sequence[float]) -> list[tuple[int, int]]:
    """Return where the rate drops in one epoch, and where a smooth decay has left a tenth of it.

    Each with the index from which on the loss should have been falling, -1 for the start.
    """
    inside = range(1, len(rates) - 2)
    sudden = [(at, at - 2) for at in inside if rates[at] <= _DROP * rates[at - 1]]
    largest = max(rates, default=0.0)
    low = [at for at in inside if rates[at] < _LOW * largest and rates.index(largest) < at]
    # a schedule that is low in its last third is as it should be
    smooth = [(low[0], min(low[0] // 2, low[0] - 2))] if len(low) > len(rates) / 3 else []
    return sorted({*sudden, *smooth})


PLATEAU = Rule(
    "plateau",
    _plateau,
    "lower the learning rate, or let it decay (schedule): the steps are too large to settle",
    "Loss function; Annealing the learning rate",
)
EARLY_DECAY = Rule(
    "early_decay",
    _early_decay,
    'decay later or less: let validation stop improving first (schedule = "plateau")',
    "Annealing the learning rate",
)
