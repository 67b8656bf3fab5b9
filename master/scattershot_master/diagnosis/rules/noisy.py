"""Owns the rule on losses that jump from step to step: the batch is too small."""

from __future__ import annotations

from scattershot_master.diagnosis.trial_case import Case, Rule, percent

#: Jumps of a step's loss, as a part of the starting loss, that are too large.
_JUMPS = 0.25


def _look(case: Case) -> str:
    if not case.layers or case.broken or case.initial <= 0 or case.left > 0.7:
        return ""  # the noise of a loss that has hardly fallen is that of the examples
    line = case.layers[-1]
    epoch = line["epoch"]
    if epoch == 1 or epoch < len(case.history) / 2:
        return ""  # it may have calmed down since
    losses = [one.get("train_loss", 0.0) for one in case.history if one.get("epoch") == epoch]
    begun = max([case.initial, *case.train[:1]])  # one batch may have been lucky
    jumps = line.get("noise", 0.0) * (losses[0] if losses else 0.0) / begun
    if not jumps > _JUMPS:
        return ""
    size = case.params.get("batch_size")
    of = f" with batches of {size}" if size else ""
    return (
        f"at epoch {epoch} a step's loss still jumps by {percent(jumps)} of the starting loss{of}"
    )


RULE = Rule(
    "noisy",
    _look,
    "enlarge batch_size, or lower the learning rate with it",
    "Loss function",
)
