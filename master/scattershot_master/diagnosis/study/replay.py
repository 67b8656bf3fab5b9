"""Owns what killers would have done to a study's trials, had all reported in step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scattershot_master.board import Board, TrialRecord
from scattershot_master.killers.base import Curve, Killer, Peers
from scattershot_master.killers.rules import judge_all


@dataclass(frozen=True, slots=True)
class Killing:
    """A trial's end at the hands of killers: where, and why."""

    stage: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Replay:
    """Which trials would have been killed, and how many of the epochs trained would not have been.

    Only what was trained is known: a trial that the study itself killed ends there in here, too.
    """

    killed: Mapping[int, Killing]
    trained: int
    saved: int


def replay(board: Board, killers: Mapping[int, Sequence[Killer]]) -> Replay:
    """Replay the study with these killers, by the stages' indices.

    A trial that goes on from an earlier stage is judged at the epochs it trains in the later one.
    """
    killed: dict[int, Killing] = {}
    begun: dict[int, int] = {}
    trained = saved = 0
    for stage in board.stages:
        budget = int(board.study["stage"][stage.index]["epochs"])
        trials = [board.trials[number] for number in stage.trials]
        alive = [trial for trial in trials if trial.number not in killed]
        ended = _stage(board, alive, killers[stage.index], begun, budget)
        for number, (epoch, reason) in ended.items():
            killed[number] = Killing(stage.name, epoch, reason)
        for trial in trials:
            first, last = begun.get(trial.number, 0), min(trial.done, budget)
            trained += last - first
            if trial.number in killed:
                saved += last - min(max(killed[trial.number].epoch, first), last)
            begun[trial.number] = last
    return Replay(killed, trained, saved)


def _stage(
    board: Board,
    trials: Sequence[TrialRecord],
    killers: Sequence[Killer],
    begun: Mapping[int, int],
    budget: int,
) -> dict[int, tuple[int, str]]:
    """Return trial → (epoch, reason) of those that are killed in one stage."""
    peers, killed = Peers(), dict[int, tuple[int, str]]()
    values = {
        trial.number: [line.get(board.metric, math.nan) * board.sign for line in trial.history]
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
        judged = [n for n in there if begun.get(n, 0) < epoch]
        curves = {n: Curve(n, values[n][:epoch], losses[n][:epoch], budget) for n in judged}
        for number, curve in curves.items():
            verdict = judge_all(killers, curve, peers)
            if verdict.action == "kill":
                killed[number] = epoch, verdict.reason
        for killer in killers:
            if epoch in killer.stops(budget):
                standings = {n: curves[n].standing for n in judged if n not in killed}
                for number, verdict in killer.settle(epoch, standings).items():
                    if verdict.action == "kill":
                        killed[number] = epoch, verdict.reason
    return killed
