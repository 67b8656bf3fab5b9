"""A rule on losses that jump from step to step: the batch is too small."""

from __future__ import annotations

from scattershot_master.diagnosis.trial_case import Rule, TrialCase
from scattershot_master.text import percent

#: Too large a jump of the loss from step to step, as a part of the starting loss.
_JUMPS = 0.25


def _noisy(case: TrialCase) -> str:
    if not case.layers or case.ends_diverged or case.start_loss <= 0 or case.loss_left > 0.7:
        return ""  # the noise of a loss that has hardly fallen is that of the examples
    record = case.layers[-1]
    epoch = record["epoch"]
    if epoch == 1 or epoch < len(case.history) / 2:
        return ""  # it may have calmed down since
    losses = [line.get("train_loss", 0.0) for line in case.history if line.get("epoch") == epoch]
    start = max([case.start_loss, *case.train_losses[:1]])  # the first batch's may be low by chance
    jumps = record.get("noise", 0.0) * (losses[0] if losses else 0.0) / start
    if not jumps > _JUMPS:
        return ""
    size = case.params.get("batch_size")
    batches = f" with batches of {size}" if size else ""
    return (
        f"at epoch {epoch} a step's loss still jumps by {percent(jumps)} of the starting loss"
        f"{batches}"
    )


NOISY = Rule(
    "noisy",
    _noisy,
    "enlarge batch_size, or lower the learning rate with it",
    "Loss function",
)
