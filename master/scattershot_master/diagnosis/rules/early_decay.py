"""Owns the rule on a learning rate that was lowered while the loss was still falling."""

from __future__ import annotations

from collections.abc import Sequence

from scattershot_master.diagnosis.trial_case import Case, Rule, number

#: The rate drops to this part or less from one epoch to the next.
_DROP = 0.5
#: What is left of the largest rate when a smooth decay has come too far.
_LOW = 0.1


def _look(case: Case) -> str:
    lines = [one for one in case.history if "lr" in one and "train_loss" in one]
    if case.broken or case.start <= 0:
        return ""
    for at, since in _drops([one["lr"] for one in lines]):
        before, after = lines[at - 1], lines[at]
        previous = lines[since]["train_loss"] if since >= 0 else case.start
        falling = (previous - before["train_loss"]) / case.start / (at - 1 - since)
        rest = (after["train_loss"] - lines[-1]["train_loss"]) / case.start / (len(lines) - at - 1)
        left = lines[-1]["train_loss"] / case.start
        if falling > 0.02 and rest < 0.25 * falling and left > 0.15:
            most = max(one["lr"] for one in lines[:at])
            return (
                f"by epoch {after['epoch']:.0f} the rate fell from {number(most)} to "
                f"{number(after['lr'])} while the loss was falling; it then stood still at "
                f"{number(lines[-1]['train_loss'])}"
            )
    return ""


def _drops(rates: Sequence[float]) -> list[tuple[int, int]]:
    """Return where the rate drops at once, and where, bit by bit, a tenth of it is left.

    Each with the line from which on the loss should have been falling, -1 for the start.
    """
    inside = range(1, len(rates) - 2)
    sudden = [(at, at - 2) for at in inside if rates[at] <= _DROP * rates[at - 1]]
    most = max(rates, default=0.0)
    low = [at for at in inside if rates[at] < _LOW * most and rates.index(most) < at]
    # a schedule that ends low is as it should be
    slowly = [(low[0], min(low[0] // 2, low[0] - 2))] if len(low) > len(rates) / 3 else []
    return sorted({*sudden, *slowly})


RULE = Rule(
    "early_decay",
    _look,
    'decay later or less: let validation stop improving first (schedule = "plateau")',
    "Annealing the learning rate",
)
