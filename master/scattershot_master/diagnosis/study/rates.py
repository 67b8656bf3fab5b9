"""Owns the rule on learning rates beyond which no trial learns."""

from __future__ import annotations

from scattershot_master.diagnosis.case import Case, Finding, number
from scattershot_master.diagnosis.study.case import StudyCase

#: So many trials in a row, from the end of the range, are no accident.
_LEAST = 3


def rates(study: StudyCase) -> list[Finding]:
    """Find the rate above which all trials diverge, and the one below which all are too slow."""
    if not isinstance(study.board.study["space"].get("lr"), dict):
        return []
    found = []
    rated = [
        (float(case.params["lr"]), case, {one.rule for one in study.findings.get(trial, ())})
        for trial, case in study.cases.items()
        if "lr" in case.params and case.history
    ]
    rated.sort(key=lambda one: one[0])
    fast = [(lr, "diverged" in rules) for lr, _, rules in reversed(rated)]
    slow = [(lr, _slow(case, rules)) for lr, case, rules in rated]
    for sides, verb, which, bound, way in (
        (fast, "diverge", "from lr {} on", "upper", "down, below"),
        (slow, "are too slow", "up to lr {}", "lower", "up, above"),
    ):
        count = next((at for at, (_, bad) in enumerate(sides) if not bad), len(sides))
        if count < _LEAST:
            continue
        edge = number(sides[count - 1][0])
        if count == len(sides):
            evidence = f"all {count} trials {verb}, at lr {number(rated[0][0])} to "
            evidence += number(rated[-1][0])
        else:
            evidence = f"all {count} trials {which.format(edge)} {verb}; the next one, at "
            evidence += f"{number(sides[count][0])}, does not"
        remedy = f"move the {bound} bound of lr {way} {edge}"
        found.append(Finding("rates", evidence, remedy, "Hyperparameter optimization"))
    return found


def _slow(case: Case, rules: set[str]) -> bool:
    small = case.ratio is not None and case.ratio < 1e-3
    return "slow" in rules or ("update_ratio" in rules and small)
