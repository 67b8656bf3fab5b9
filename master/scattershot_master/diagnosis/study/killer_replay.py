"""Owns what killers would have done to a study's trials, had all trained at the same pace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scattershot_master.killers.base import Curve, Killer, Peers, best
from scattershot_master.killers.build import judge_all
from scattershot_master.state.study_state import StudyState, TrialRecord


@dataclass(frozen=True, slots=True)
class Killing:
    """A trial's end at the hands of killers: where, and why."""

    stage: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Replay:
    """Which trials would have been killed, and how many of the epochs trained would not have been.

    `kept` is the best value (larger is better) that would have been reached all the same. Only
    what was trained is known: a trial that the study itself killed ends there in here, too.
    """

    killed: Mapping[int, Killing]
    trained: int
    saved: int
    kept: float


def replay(
    state: StudyState, killers: Mapping[int, Sequence[Killer]], *, together: bool = True
) -> Replay:
    """Replay the study with these killers, by the stages' indices.

    All trials go in step. `together`: each is judged when all have reported the epoch. Otherwise
    one after the other, by those that reported before it, as a study judges: the first ones have
    no peers yet, so fewer are killed.

    A trial that goes on from an earlier stage is judged at the epochs it trains in the later one.
    """
    killed: dict[int, Killing] = {}
    begun: dict[int, int] = {}
    trained = saved = 0
    for stage in state.stages:
        budget = state.settings.stages[stage.index].epochs
        trials = [state.trials[number] for number in stage.trials]
        alive = [trial for trial in trials if trial.number not in killed]
        ended = _Stage(state, alive, killers[stage.index], begun, budget).run(together)
        for number, (epoch, reason) in ended.items():
            killed[number] = Killing(stage.name, epoch, reason)
        for trial in trials:
            first, last = begun.get(trial.number, 0), min(trial.done, budget)
            trained += last - first
            if trial.number in killed:
                saved += last - min(max(killed[trial.number].epoch, first), last)
            begun[trial.number] = last
    kept = max(
        (_reached(state, trial, killed) for trial in state.trials.values()), default=-math.inf
    )
    return Replay(killed, trained, saved, kept)


def _values(state: StudyState, trial: TrialRecord) -> list[float]:
    return [line.get(state.metric, math.nan) * state.sign for line in trial.history]


def _reached(state: StudyState, trial: TrialRecord, killed: Mapping[int, Killing]) -> float:
    """Return the best value up to where the trial is killed: its checkpoint survives that."""
    values = _values(state, trial)
    return best(values[: killed[trial.number].epoch] if trial.number in killed else values)


class _Stage:
    """One stage, epoch by epoch: who is there, who was killed where and why."""

    def __init__(
        self,
        state: StudyState,
        trials: Sequence[TrialRecord],
        killers: Sequence[Killer],
        begun: Mapping[int, int],
        budget: int,
    ) -> None:
        self._killers, self._begun, self._budget = killers, begun, budget
        self._values = {trial.number: _values(state, trial) for trial in trials}
        self._losses = {
            trial.number: [line.get("train_loss", line.get("val_loss")) for line in trial.history]
            for trial in trials
        }
        self._peers = Peers()
        self._killed = dict[int, tuple[int, str]]()

    def run(self, together: bool) -> dict[int, tuple[int, str]]:
        """Return trial → (epoch, reason) of those that are killed."""
        for epoch in range(1, self._budget + 1):
            there = [n for n, one in self._values.items() if len(one) >= epoch]
            there = [n for n in there if n not in self._killed]
            for group in [there] if together else [[n] for n in there]:
                self._judge(group, epoch)
            for killer in self._killers:
                if epoch in killer.stops(self._budget):
                    self._settle(killer, there, epoch)
        return self._killed

    def _judge(self, group: Sequence[int], epoch: int) -> None:
        for number in group:
            self._peers.add(number, epoch, self._values[number][epoch - 1])
        for number in group:
            if self._begun.get(number, 0) < epoch:
                verdict = judge_all(self._killers, self._curve(number, epoch), self._peers)
                if verdict.action == "kill":
                    self._killed[number] = epoch, verdict.reason

    def _settle(self, killer: Killer, there: Sequence[int], epoch: int) -> None:
        waiting = [n for n in there if n not in self._killed and self._begun.get(n, 0) < epoch]
        standings = {n: self._curve(n, epoch).standing for n in waiting}
        for number, verdict in killer.settle(epoch, standings).items():
            if verdict.action == "kill":
                self._killed[number] = epoch, verdict.reason

    def _curve(self, number: int, epoch: int) -> Curve:
        values, losses = self._values[number], self._losses[number]
        return Curve(number, values[:epoch], losses[:epoch], self._budget)
