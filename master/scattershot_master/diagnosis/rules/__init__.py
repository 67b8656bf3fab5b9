"""Owns the table of the rules on one trial, in the order in which they are told."""

from scattershot_master.diagnosis.rules import (
    dead_relus,
    diverged,
    early_decay,
    exploding,
    flat_start,
    initial_loss,
    noisy,
    overfitting,
    plateau,
    saturated,
    slow,
    still_improving,
    underfitting,
    update_ratio,
    vanishing,
)
from scattershot_master.diagnosis.trial_case import Rule

RULES: dict[str, Rule] = {
    one.RULE.name: one.RULE
    for one in (
        initial_loss,
        flat_start,
        diverged,
        exploding,
        vanishing,
        dead_relus,
        saturated,
        update_ratio,
        slow,
        plateau,
        early_decay,
        noisy,
        overfitting,
        underfitting,
        still_improving,
    )
}
