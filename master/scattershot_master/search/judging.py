"""Judging reports: each is compared with those of the stage's other trials so far."""

from __future__ import annotations

from collections.abc import Sequence

from scattershot_master.killers.base import Curve, Killer, Peers
from scattershot_master.killers.build import judge_all
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord


class Judge:
    """Judges the reports of one stage; made anew, from the study's state, when a stage opens."""

    def __init__(self, state: StudyState, stage: StageRecord, killers: Sequence[Killer]) -> None:
        self._state, self._killers = state, killers
        self._peers = Peers()
        for number in stage.trials:
            trial = state.trials[number]
            for epoch in trial.history:
                self._add(trial, epoch)

    def verdict(self, trial: TrialRecord) -> str:
        """Return why the trial is to be killed after its latest report; "" to let it live."""
        if not self._killers:
            return ""
        self._add(trial, trial.history[-1])
        objective = self._state.objective
        curve = Curve(
            trial.number,
            [objective.score(objective.of(epoch)) for epoch in trial.history],
            [epoch.get("train_loss", epoch.get("val_loss")) for epoch in trial.history],
            trial.epochs,
        )
        verdict = judge_all(self._killers, curve, self._peers)
        return verdict.reason if verdict.action == "kill" else ""

    def _add(self, trial: TrialRecord, epoch: dict[str, float]) -> None:
        objective = self._state.objective
        self._peers.add(trial.number, int(epoch["epoch"]), objective.score(objective.of(epoch)))
