"""The rules on a study as a whole: their table, in the order in which findings are listed."""

from scattershot_master.diagnosis.study_case import StudyCase, StudyRule
from scattershot_master.diagnosis.study_rules.importance import importance
from scattershot_master.diagnosis.study_rules.killers import killed_winner, killers
from scattershot_master.diagnosis.study_rules.lr_bounds import lr_bounds
from scattershot_master.diagnosis.study_rules.noise import within_noise
from scattershot_master.diagnosis.trial_case import Finding
from scattershot_master.state.border_warnings import border_warnings

STUDY_RULES: dict[str, StudyRule] = {
    "rates": lr_bounds,
    "chance": within_noise,
    "killed_winner": killed_winner,
    "killers": killers,
    "importance": importance,
}


def diagnose_study(study: StudyCase) -> list[Finding]:
    """Return the findings in the study as a whole, the borders first."""
    borders = []
    for warning in border_warnings(study.state):
        evidence, _, remedy = str(warning).rpartition(": ")
        borders.append(Finding("border", evidence, remedy, "Hyperparameter optimization"))
    return borders + [finding for rule in STUDY_RULES.values() for finding in rule(study)]
