"""Owns the rule on learning rates beyond which no trial learns."""

from __future__ import annotations

from scattershot_master.diagnosis.case import Finding, number
from scattershot_master.diagnosis.study.case import StudyCase

#: So many trials in a row, from the end of the range, are no accident.
_LEAST = 3


def rates(study: StudyCase) -> list[Finding]:
    """Find the rate above which all trials diverge, and the one below which all are too slow."""
    found = []
    space = study.board.study["space"]
    if not isinstance(space.get("lr"), dict):
        return []
    sides = (
        (True, {"diverged"}, "diverge", "upper", "down"),
        (False, {"slow", "update_ratio"}, "are too slow", "lower", "up"),
    )
    rated = [
        (float(case.params["lr"]), {one.rule for one in study.findings.get(trial, ())})
        for trial, case in study.cases.items()
        if "lr" in case.params and case.history
    ]
    for top, bad, verb, bound, way in sides:
        ordered = sorted(rated, key=lambda one: one[0], reverse=top)
        count = next((at for at, (_, rules) in enumerate(ordered) if not bad & rules), len(ordered))
        if _LEAST <= count < len(ordered):
            edge = ordered[count - 1][0]
            evidence = f"all {count} trials {'from' if top else 'up to'} lr {number(edge)} "
            evidence += (
                f"{'on ' if top else ''}{verb}; the next one at {number(ordered[count][0])} "
            )
            evidence += "does not"
            remedy = f"move the {bound} bound of lr {way} to {number(edge)}"
            found.append(Finding("rates", evidence, remedy, "Hyperparameter optimization"))
    return found
