"""Owns the rule on killers that would have killed the winner, had all its peers been there."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scattershot.settings import StudyFile
from scattershot_master.board import TrialRecord
from scattershot_master.diagnosis.case import Finding
from scattershot_master.diagnosis.study.case import StudyCase
from scattershot_master.judging import stage_killers
from scattershot_master.killers.base import Curve, Killer, Peers
from scattershot_master.killers.rules import judge_all
from scattershot_master.ranking import finite


def killed_winner(study: StudyCase) -> list[Finding]:
    """Replay every stage's killers over what its trials reported, epoch by epoch."""
    board = study.board
    ranking = finite(board)
    if not ranking:
        return []
    winner, found = ranking[0], []
    file = StudyFile.model_validate(board.study)
    for stage in board.stages:
        if winner.number not in stage.trials or stage.index >= len(file.stages):
            continue
        killers = stage_killers(file, stage.index)
        trials = [board.trials[number] for number in stage.trials]
        budget = file.stages[stage.index].epochs
        killed = replay(killers, trials, board.metric, board.sign, budget).get(winner.number)
        if killed is not None:
            epoch, reason = killed
            found.append(
                Finding(
                    "killed_winner",
                    f"with all its peers there, the best trial, {winner.number}, would have been "
                    f"killed at epoch {epoch} of stage {stage.name} ({reason})",
                    "raise [kill] grace, or take a milder rule: early values tell little here",
                    "Hyperparameter optimization",
                )
            )
    return found


def replay(
    killers: Sequence[Killer],
    trials: Sequence[TrialRecord],
    metric: str,
    sign: int,
    budget: int,
) -> dict[int, tuple[int, str]]:
    """Return trial → (epoch, reason) of those that `killers` kill when all report in step."""
    peers, killed = Peers(), dict[int, tuple[int, str]]()
    values = {
        trial.number: [line.get(metric, math.nan) * sign for line in trial.history[:budget]]
        for trial in trials
    }
    losses = {
        trial.number: [line.get("train_loss", line.get("val_loss")) for line in trial.history]
        for trial in trials
    }
    for epoch in range(1, budget + 1):
        there = [n for n, one in values.items() if len(one) >= epoch and n not in killed]
        for number in there:
            peers.add(number, epoch, values[number][epoch - 1])
        curves = {n: Curve(n, values[n][:epoch], losses[n][:epoch], budget) for n in there}
        for number, curve in curves.items():
            verdict = judge_all(killers, curve, peers)
            if verdict.action == "kill":
                killed[number] = epoch, verdict.reason
        for killer in killers:
            if epoch in killer.stops(budget):
                standings = {n: curves[n].standing for n in there if n not in killed}
                for number, verdict in killer.settle(epoch, standings).items():
                    if verdict.action == "kill":
                        killed[number] = epoch, verdict.reason
    return killed
