"""The table of the rules on one trial, in the order in which findings are listed."""

from scattershot_master.diagnosis.trial_case import Rule
from scattershot_master.diagnosis.trial_rules.activations import DEAD_RELUS, SATURATED
from scattershot_master.diagnosis.trial_rules.diverged import DIVERGED
from scattershot_master.diagnosis.trial_rules.fit import OVERFITTING, UNDERFITTING
from scattershot_master.diagnosis.trial_rules.gradients import (
    EXPLODING_GRADIENTS,
    VANISHING_GRADIENTS,
)
from scattershot_master.diagnosis.trial_rules.initialization import FLAT_START, INITIAL_LOSS
from scattershot_master.diagnosis.trial_rules.noisy import NOISY
from scattershot_master.diagnosis.trial_rules.slow import SLOW
from scattershot_master.diagnosis.trial_rules.stalled_loss import EARLY_DECAY, PLATEAU
from scattershot_master.diagnosis.trial_rules.still_improving import STILL_IMPROVING
from scattershot_master.diagnosis.trial_rules.update_ratio import UPDATE_RATIO

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        INITIAL_LOSS,
        FLAT_START,
        DIVERGED,
        EXPLODING_GRADIENTS,
        VANISHING_GRADIENTS,
        DEAD_RELUS,
        SATURATED,
        UPDATE_RATIO,
        SLOW,
        PLATEAU,
        EARLY_DECAY,
        NOISY,
        OVERFITTING,
        UNDERFITTING,
        STILL_IMPROVING,
    )
}
