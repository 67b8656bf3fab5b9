"""Owns which border warnings a study shows: those of its stages that no later stage has answered.

CS231n, "Hyperparameter optimization": "Careful with best values on border."
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from scattershot_common.space.space import Box, Space
from scattershot_master.state.borders import BorderWarning, warnings
from scattershot_master.state.ranking import finite
from scattershot_master.state.study_state import StudyState, TrialRecord


@dataclass(frozen=True, slots=True)
class StageWarning:
    """A border warning and the stage whose best trials raise it."""

    stage: str
    warning: BorderWarning

    def __str__(self) -> str:
        return f"{self.stage} · {self.warning.text}"


def border_warnings(state: StudyState) -> list[StageWarning]:
    """Return the warnings of every stage that drew points, the latest stage's first.

    One that a later stage has answered is left out: that stage searched beyond the border, or
    raises the same warning with better evidence.
    """
    space = state.settings.space
    found: list[StageWarning] = []
    later: list[Box] = []
    for stage in reversed(state.stages):
        if stage.box is None:
            continue
        box = Box.from_json(stage.box)
        trials = [state.trials[number] for number in stage.trials]
        drawn = [trial.params for trial in finite(state, trials)]
        fruitless = [trial.params for trial in trials if _fruitless(trial)]
        raised = {(one.warning.axis, one.warning.side) for one in found}
        for warning in warnings(space, box, drawn, fruitless=fruitless):
            answered = any(_beyond(space, warning, box, other) for other in later)
            if not answered and (warning.axis, warning.side) not in raised:
                found.append(StageWarning(stage.name, warning))
        later.append(box)
    return found


def _fruitless(trial: TrialRecord) -> bool:
    """Return whether a trial was tried and has no value."""
    return not isfinite(trial.best_value) and (bool(trial.history) or not trial.living)


def _beyond(space: Space, warning: BorderWarning, box: Box, later: Box) -> bool:
    """Return whether `later` reaches further than `box` at the border warned of."""
    index = [axis.name for axis in space.axes].index(warning.axis)
    if warning.side == "low":
        return later.sides[index][0][0] < box.sides[index][0][0]
    return later.sides[index][-1][1] > box.sides[index][-1][1]
