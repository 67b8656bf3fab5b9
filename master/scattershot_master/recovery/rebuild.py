"""Owns the rebuilding of a ledger: facts to the events of a study that stands where they say.

Pure. What no fact tells is derived as the master itself would: the points of a stage are a
function of the seed and the stage's box, a box of the results before it, a rung of its trials'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scattershot_common.bus.outcome import Outcome
from scattershot_common.objective import Objective
from scattershot_common.study.settings import Stage, StudyFile
from scattershot_common.trial import State
from scattershot_master.killers.base import Killer
from scattershot_master.killers.build import stage_killers
from scattershot_master.recovery.facts import Facts, TrialFacts
from scattershot_master.search import planning
from scattershot_master.state import events
from scattershot_master.state.events import LedgerEvent
from scattershot_master.state.study_state import StudyState

_LOST = "how it ended was lost with the ledger"


@dataclass
class Rebuilt:
    """The events of a new ledger, what they add up to, and what the user should know of it."""

    events: list[LedgerEvent] = field(default_factory=list)
    state: StudyState = field(default_factory=StudyState)
    notes: list[str] = field(default_factory=list)

    def add(self, event: LedgerEvent) -> None:
        """Append an event, and apply it to the state."""
        self.events.append(event)
        self.state.apply(event)


def rebuild(study: StudyFile, facts: Facts, uid: str, version: str, now: float) -> Rebuilt:
    """Return a ledger's events for what `facts` tell of `study`; `now` is in seconds since 1970.

    Trials of a stage that a later one followed have ended: those without a trace count as killed.
    Those of the last stage that was opened go on where their checkpoints are.
    """
    return _Rebuilding(study, facts, now).run(uid, version)


class _Rebuilding:
    def __init__(self, study: StudyFile, facts: Facts, now: float) -> None:
        self._study, self._facts = study, facts
        self._at = facts.begun if math.isfinite(facts.begun) else _earliest(facts, now)
        self._out = Rebuilt(notes=[*facts.notes])
        self._state = self._out.state
        self._unknown = 0
        self._elsewhere = 0
        self._passed = 0  # the last rung of the stage that is settled
        total = sum(stage.trials or 0 for stage in study.stages)
        for number in [one for one in facts.trials if not 0 <= one < total]:
            del facts.trials[number]
            self._out.notes.append(f"trial {number} is none of this study's: it is left alone")

    def run(self, uid: str, version: str) -> Rebuilt:
        out, facts = self._out, self._facts
        dumped = self._study.model_dump(mode="json", by_alias=True)
        out.add(events.StudyBegun(uid, dumped, version, recovered=True, at=self._at))
        if facts.home is not None:
            out.add(facts.home._replace(at=self._at))
        opened = self._opened()
        for index in range(opened):
            self._stage(index, over=index + 1 < opened or index in facts.closed)
        if facts.ensemble is not None:
            out.add(events.EnsembleBuilt(facts.ensemble, at=self._at))
        if facts.finished and self._state.stages and self._state.stages[-1].closed:
            out.add(events.StudyFinished(at=self._at))
        if self._unknown:
            out.notes.append(
                f"{self._unknown} trials count as killed: how they ended was lost with the ledger"
            )
        if self._elsewhere:
            out.notes.append(
                f"{self._elsewhere} trials lie where the study's settings would not draw them: if "
                "study.toml is not the file that it was begun with, restore that and recover again"
            )
        return out

    def _opened(self) -> int:
        """Return how many stages were opened, as far as anything shows."""
        opened, first, most = 1, 0, 0
        for index, stage in enumerate(self._study.stages):
            if stage.continue_ is None:
                shows = any(number >= first for number in self._facts.trials)
                first += stage.trials or 0
            else:
                there = self._facts.trials.values()
                shows = any(one.stage == stage.name or one.done > most for one in there)
            if shows or index in self._facts.stages:
                opened = index + 1
            most = max(most, stage.epochs)
        return opened

    def _stage(self, index: int, *, over: bool) -> None:
        """Open a stage, tell of its trials, and close it if it is `over`."""
        state, settings = self._state, self._study.stages[index]
        killers = stage_killers(state.settings, index)
        known = self._facts.stages.get(index)
        opening = known or planning.next_stage(state, killers)
        assert opening is not None
        opening = opening._replace(at=self._at)
        if settings.continue_ is None:
            self._out.add(opening)
            elsewhere = self._elsewhere
            numbers, ends = self._sample(settings, killers, over)
            if settings.refine is not None and known is None:
                fits = self._elsewhere == elsewhere
                self._elsewhere = elsewhere
                self._out.notes.append(
                    f"stage {settings.name}: its box was lost; the one that follows from what is "
                    f"left {'fits its trials' if fits else 'is another, further points are its'}"
                )
        else:
            numbers = self._continued(settings, opening.trials or ())
            ends = self._rungs(numbers, settings, killers)
            until = [self._until(number, settings, killers, ends) for number in numbers]
            self._out.add(
                opening._replace(
                    trials=numbers, target=len(numbers), epochs=settings.epochs, until=until
                )
            )
        for number in numbers:
            self._trial(number, settings, ends, over=over)
        if over:
            self._out.add(events.StageClosed(index, at=self._at))

    def _sample(
        self, settings: Stage, killers: Sequence[Killer], over: bool
    ) -> tuple[list[int], dict[int, str]]:
        """Sample the stage's trials as far as they were; return them, and whom a rung has ended."""
        facts, first = self._facts, len(self._state.trials)
        points = planning.next_points(self._state, killers, settings.trials or 0)
        numbers = [point.trial for point in points]
        ends = self._rungs(numbers, settings, killers)
        if not (over or self._passed):  # once a rung is settled, all trials have been drawn
            last = max((one for one in facts.trials if one in numbers), default=first - 1)
            points = points[: last + 1 - first]
        for point in points:
            fact = facts.trials.get(point.trial, TrialFacts())
            params = point.params
            if fact.params is not None and fact.params != params:
                self._elsewhere += 1
                params = fact.params
            until = self._until(point.trial, settings, killers, ends)
            self._out.add(point._replace(params=params, until=until, at=self._at))
        if self._passed:  # whoever has left nothing by now has not come through it
            for number in numbers:
                if number not in facts.trials:
                    ends.setdefault(number, _LOST)
        return [point.trial for point in points], ends

    def _continued(self, settings: Stage, chosen: Sequence[int]) -> list[int]:
        """Return the stage's trials: those known to be in it, then those it would choose."""
        there = self._facts.trials.items()
        surely = [number for number, fact in sorted(there) if fact.stage == settings.name]
        wanted = max(len(chosen), len(surely))
        others = [number for number in chosen if number not in surely]
        kept = {*surely, *others[: wanted - len(surely)]} & {*self._state.trials}
        return [*(one for one in chosen if one in kept), *sorted(kept - {*chosen})]

    def _rungs(
        self, numbers: Sequence[int], settings: Stage, killers: Sequence[Killer]
    ) -> dict[int, str]:
        """Settle again the rungs that some trial has passed; note the last of them.

        Returns why trials that stand at one did not come through it.
        """
        trials, state = self._facts.trials, self._state
        ends: dict[int, str] = {}
        self._passed = 0
        for stop in sorted({stop for killer in killers for stop in killer.stops(settings.epochs)}):
            at_it = {
                number: _standing(trials[number], stop, state.objective)
                for number in numbers
                if number in trials and trials[number].done >= stop
            }
            if all(trials[number].done == stop for number in at_it):
                break
            self._passed = stop
            for killer in killers:
                if stop in killer.stops(settings.epochs):
                    for number, verdict in killer.settle(stop, at_it).items():
                        if verdict.action == "kill" and trials[number].done == stop:
                            ends.setdefault(number, verdict.reason)
        return ends

    def _until(
        self, number: int, settings: Stage, killers: Sequence[Killer], ends: Mapping[int, str]
    ) -> int:
        """Return the stop that a trial trains to: that at which it ended, or the next one."""
        fact = self._facts.trials.get(number, TrialFacts())
        ended = number in ends or fact.end is not None
        passed = fact.done - 1 if ended else max(self._passed, fact.done - 1)
        return planning.next_stop(killers, passed, settings.epochs)

    def _trial(self, number: int, settings: Stage, ends: Mapping[int, str], *, over: bool) -> None:
        """Tell what a trial did in a stage, and how it stands at its end."""
        out, record = self._out, self._state.trials[number]
        fact = self._facts.trials.get(number)
        if fact is None:
            if over or number in ends:
                self._end(number, "killed", ends.get(number, _LOST))
            return
        if fact.attempts > record.attempts or fact.history:
            attempt = max(fact.attempts, record.attempts, 1)
            started = fact.started if math.isfinite(fact.started) else self._at
            out.add(events.TrialStarted(number, attempt, fact.worker, at=started))
        for epoch, (metrics, file) in sorted(fact.history.items()):
            if record.done < epoch <= settings.epochs:
                out.add(events.EpochReported(number, record.attempts, epoch, metrics, file))
        if record.done >= settings.epochs:
            self._end(number, "complete", "")
        elif fact.end is not None:
            self._end(number, *fact.end)
        elif number in ends:
            self._end(number, "killed", ends[number])
        elif over:
            self._end(number, "killed", _LOST)
        elif record.attempts:
            # a worker may be at it still, with an attempt nothing tells of: the next is another
            attempt = record.attempts + 1
            out.add(events.TrialStarted(number, attempt, fact.worker, at=self._at))
            out.add(events.TrialChanged("waiting", number, attempt, why=Outcome.HOLD, at=self._at))

    def _end(self, number: int, trial_state: State, reason: str) -> None:
        self._unknown += reason == _LOST
        fact = self._facts.trials.get(number, TrialFacts())
        at = fact.ended if math.isfinite(fact.ended) else self._at
        attempts = self._state.trials[number].attempts
        self._out.add(events.TrialChanged(trial_state, number, attempts, reason, at=at))


def _standing(fact: TrialFacts, stop: int, objective: Objective) -> float:
    """Return the best value up to an epoch, larger is better; NaN if that one's is not finite."""
    values = {
        epoch: objective.score(objective.of(metrics))
        for epoch, (metrics, _) in fact.history.items()
        if epoch <= stop
    }
    if not math.isfinite(values.get(stop, math.nan)):
        return math.nan
    return max(filter(math.isfinite, values.values()))


def _earliest(facts: Facts, now: float) -> float:
    return min((one.started for one in facts.trials.values() if one.started < now), default=now)
