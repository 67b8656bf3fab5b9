"""Owns the table of the rules on a study as a whole, in the order in which they are told."""

from scattershot_master.diagnosis.study.importance import importance
from scattershot_master.diagnosis.study.killers import killed_winner, other_killers
from scattershot_master.diagnosis.study.lr_bounds import rates
from scattershot_master.diagnosis.study.study_case import StudyRule
from scattershot_master.diagnosis.study.within_noise import chance

STUDY_RULES: dict[str, StudyRule] = {
    "rates": rates,
    "chance": chance,
    "killed_winner": killed_winner,
    "killers": other_killers,
    "importance": importance,
}
