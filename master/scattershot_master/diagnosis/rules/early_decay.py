"""Owns the rule on a learning rate that was lowered while the loss was still falling."""

from __future__ import annotations

from scattershot_master.diagnosis.case import Case, Rule, number

#: The rate drops to this part or less from one epoch to the next.
_DROP = 0.5


def _look(case: Case) -> str:
    lines = [one for one in case.history if "lr" in one and "train_loss" in one]
    if case.broken or case.start <= 0:
        return ""
    for at in range(1, len(lines) - 2):
        before, after = lines[at - 1], lines[at]
        if after["lr"] > _DROP * before["lr"]:
            continue
        previous = lines[at - 2]["train_loss"] if at > 1 else case.start
        falling = (previous - before["train_loss"]) / case.start
        rest = (after["train_loss"] - lines[-1]["train_loss"]) / case.start / (len(lines) - at - 1)
        left = lines[-1]["train_loss"] / case.start
        if falling > 0.02 and rest < 0.25 * falling and left > 0.15:
            return (
                f"at epoch {after['epoch']:.0f} the rate fell from {number(before['lr'])} to "
                f"{number(after['lr'])} while the loss was falling; it then stood still at "
                f"{number(lines[-1]['train_loss'])}"
            )
    return ""


RULE = Rule(
    "early_decay",
    _look,
    'decay later or less: let validation stop improving first (schedule = "plateau")',
    "Annealing the learning rate",
)
