"""Replay of a study under given killers, with all its trials trained at the same pace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scattershot_master.killers.killer import Curve, Killer, Peers, best
from scattershot_master.killers.make_killers import judge_all
from scattershot_master.state.study_state import StudyState, TrialRecord


@dataclass(frozen=True, slots=True)
class ReplayedKill:
    """Where killers would have ended a trial, and why."""

    stage: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class KillerReplay:
    """The trials that would have been killed, the epochs trained and those of them saved.

    `best` is the best value (larger is better) that would still have been reached. Only what was
    trained is known: a trial that the study itself killed ends there in the replay, too.
    """

    killed: Mapping[int, ReplayedKill]
    trained: int
    saved: int
    best: float


def replay(
    state: StudyState, killers: Mapping[int, Sequence[Killer]], *, together: bool = True
) -> KillerReplay:
    """Replay the study with these killers, by the stages' indices.

    All trials go in step. `together`: each is judged when all have reported the epoch. Otherwise
    one after the other, by those that reported before it, as a study judges: the first ones have
    no peers yet, so fewer are killed.

    A trial that goes on from an earlier stage is judged at the epochs it trains in the later one.
    """
    killed: dict[int, ReplayedKill] = {}
    trained_before: dict[int, int] = {}
    trained = saved = 0
    for stage in state.stages:
        budget = state.settings.stages[stage.index].epochs
        trials = [state.trials[number] for number in stage.trials]
        alive = [trial for trial in trials if trial.number not in killed]
        kills = _StageReplay(state, alive, killers[stage.index], trained_before, budget).run(
            together
        )
        for number, (epoch, reason) in kills.items():
            killed[number] = ReplayedKill(stage.name, epoch, reason)
        for trial in trials:
            first, last = trained_before.get(trial.number, 0), min(trial.done, budget)
            trained += last - first
            if trial.number in killed:
                saved += last - min(max(killed[trial.number].epoch, first), last)
            trained_before[trial.number] = last
    reached = (_best_reached(state, trial, killed) for trial in state.trials.values())
    return KillerReplay(killed, trained, saved, max(reached, default=-math.inf))


def _values(state: StudyState, trial: TrialRecord) -> list[float]:
    return [state.objective.score(state.objective.of(line)) for line in trial.history]


def _best_reached(
    state: StudyState, trial: TrialRecord, killed: Mapping[int, ReplayedKill]
) -> float:
    """Return the best value up to where the trial is killed: its checkpoint is kept."""
    values = _values(state, trial)
    return best(values[: killed[trial.number].epoch] if trial.number in killed else values)


class _StageReplay:
    """The replay of one stage, epoch by epoch."""

    def __init__(
        self,
        state: StudyState,
        trials: Sequence[TrialRecord],
        killers: Sequence[Killer],
        trained_before: Mapping[int, int],
        budget: int,
    ) -> None:
        self._killers, self._trained_before, self._budget = killers, trained_before, budget
        self._values = {trial.number: _values(state, trial) for trial in trials}
        self._losses = {
            trial.number: [line.get("train_loss", line.get("val_loss")) for line in trial.history]
            for trial in trials
        }
        self._peers = Peers()
        self._kills = dict[int, tuple[int, str]]()

    def run(self, together: bool) -> dict[int, tuple[int, str]]:
        """Return trial → (epoch, reason) of those that are killed."""
        for epoch in range(1, self._budget + 1):
            reporting = [
                number
                for number, values in self._values.items()
                if len(values) >= epoch and number not in self._kills
            ]
            for group in [reporting] if together else [[number] for number in reporting]:
                self._judge(group, epoch)
            for killer in self._killers:
                if epoch in killer.stops(self._budget):
                    self._settle(killer, reporting, epoch)
        return self._kills

    def _judge(self, group: Sequence[int], epoch: int) -> None:
        for number in group:
            self._peers.add(number, epoch, self._values[number][epoch - 1])
        for number in group:
            if self._trained_before.get(number, 0) < epoch:
                verdict = judge_all(self._killers, self._curve(number, epoch), self._peers)
                if verdict.action == "kill":
                    self._kills[number] = epoch, verdict.reason

    def _settle(self, killer: Killer, reporting: Sequence[int], epoch: int) -> None:
        paused = [
            number
            for number in reporting
            if number not in self._kills and self._trained_before.get(number, 0) < epoch
        ]
        standings = {number: self._curve(number, epoch).standing for number in paused}
        for number, verdict in killer.settle(epoch, standings).items():
            if verdict.action == "kill":
                self._kills[number] = epoch, verdict.reason

    def _curve(self, number: int, epoch: int) -> Curve:
        values, losses = self._values[number], self._losses[number]
        return Curve(number, values[:epoch], losses[:epoch], self._budget)
