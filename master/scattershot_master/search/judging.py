"""Owns the stage's killers at work: each report is judged against the stage's peers so far."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scattershot_common.study.settings import StudyFile
from scattershot_master.killers.base import Curve, Killer, Peers
from scattershot_master.killers.build import build, judge_all
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord


def stage_killers(study: StudyFile, index: int) -> list[Killer]:
    """Return the killers that hold in the study's stage `index`."""
    stage = study.stages[index]
    options = study.kill.model_dump(exclude={"rule"})
    return build(study.rules(stage), options, minimize=study.study.goal == "minimize")


class Judge:
    """Judges the reports of one stage; made anew, from the study's state, when a stage opens."""

    def __init__(self, state: StudyState, stage: StageRecord, killers: Sequence[Killer]) -> None:
        self._state, self._killers = state, killers
        self._peers = Peers()
        for number in stage.trials:
            trial = state.trials[number]
            for line in trial.history:
                self._add(trial, line)

    def verdict(self, trial: TrialRecord) -> str:
        """Return why the trial is to be killed after its latest report; "" to let it live."""
        if not self._killers:
            return ""
        self._add(trial, trial.history[-1])
        metric, sign = self._state.metric, self._state.sign
        curve = Curve(
            trial.number,
            [line.get(metric, math.nan) * sign for line in trial.history],
            [line.get("train_loss", line.get("val_loss")) for line in trial.history],
            trial.epochs,
        )
        verdict = judge_all(self._killers, curve, self._peers)
        return verdict.reason if verdict.action == "kill" else ""

    def _add(self, trial: TrialRecord, line: dict[str, float]) -> None:
        value = line.get(self._state.metric, math.nan) * self._state.sign
        self._peers.add(trial.number, int(line["epoch"]), value)
