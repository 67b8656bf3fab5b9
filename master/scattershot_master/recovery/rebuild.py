"""Rebuilds a ledger: from what was salvaged to the events of a study in that state.

Pure. What was not salvaged is derived as the master itself would: the points of a stage are a
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
from scattershot_master.killers.killer import Killer
from scattershot_master.killers.make_killers import stage_killers
from scattershot_master.recovery.salvage import SalvagedStudy, SalvagedTrial
from scattershot_master.search import planning
from scattershot_master.state import events
from scattershot_master.state.events import LedgerEvent
from scattershot_master.state.study_state import StudyState

_LOST = "how it ended was lost with the ledger"


@dataclass
class RebuiltLedger:
    """The events of a new ledger, the state they lead to, and what the user should know."""

    events: list[LedgerEvent] = field(default_factory=list)
    state: StudyState = field(default_factory=StudyState)
    notes: list[str] = field(default_factory=list)

    def add(self, event: LedgerEvent) -> None:
        """Append an event, and apply it to the state."""
        self.events.append(event)
        self.state.apply(event)


def rebuild_ledger(
    study: StudyFile, salvaged: SalvagedStudy, uid: str, version: str, now: float
) -> RebuiltLedger:
    """Return the ledger of `study` from what was salvaged; `now` is in seconds since 1970.

    Trials of a stage that a later one followed have ended: those without a trace count as killed.
    Those of the last stage that was opened resume from their checkpoints.
    """
    return _LedgerBuilder(study, salvaged, now).run(uid, version)


class _LedgerBuilder:
    def __init__(self, study: StudyFile, salvaged: SalvagedStudy, now: float) -> None:
        self._study, self._salvaged = study, salvaged
        self._at = salvaged.begun if math.isfinite(salvaged.begun) else _earliest(salvaged, now)
        self._out = RebuiltLedger(notes=[*salvaged.notes])
        self._state = self._out.state
        self._lost_ends = 0
        self._mismatched = 0
        self._settled = 0  # the last settled rung of the stage
        total = sum(stage.trials or 0 for stage in study.stages)
        for number in [number for number in salvaged.trials if not 0 <= number < total]:
            del salvaged.trials[number]
            self._out.notes.append(f"trial {number} is none of this study's: it is left alone")

    def run(self, uid: str, version: str) -> RebuiltLedger:
        out, salvaged = self._out, self._salvaged
        dumped = self._study.model_dump(mode="json", by_alias=True)
        out.add(events.StudyBegun(uid, dumped, version, recovered=True, at=self._at))
        if salvaged.home is not None:
            out.add(salvaged.home._replace(at=self._at))
        opened = self._opened_stages()
        for index in range(opened):
            self._add_stage(index, over=index + 1 < opened or index in salvaged.closed)
        if salvaged.ensemble is not None:
            out.add(events.EnsembleBuilt(salvaged.ensemble, at=self._at))
        if salvaged.finished and self._state.stages and self._state.stages[-1].closed:
            out.add(events.StudyFinished(at=self._at))
        if self._lost_ends:
            out.notes.append(
                f"{self._lost_ends} trials count as killed: how they ended was lost with the ledger"
            )
        if self._mismatched:
            out.notes.append(
                f"{self._mismatched} trials lie where the study's settings would not draw them: if "
                "study.toml is not the file that it was begun with, restore that and recover again"
            )
        return out

    def _opened_stages(self) -> int:
        """Return how many stages were opened, as far as was salvaged."""
        opened, first, epochs = 1, 0, 0
        for index, stage in enumerate(self._study.stages):
            if stage.continue_ is None:
                was_opened = any(number >= first for number in self._salvaged.trials)
                first += stage.trials or 0
            else:
                trials = self._salvaged.trials.values()
                was_opened = any(
                    trial.stage == stage.name or trial.done > epochs for trial in trials
                )
            if was_opened or index in self._salvaged.stages:
                opened = index + 1
            epochs = max(epochs, stage.epochs)
        return opened

    def _add_stage(self, index: int, *, over: bool) -> None:
        """Open a stage, add the events of its trials, and close it if it is `over`."""
        state, settings = self._state, self._study.stages[index]
        killers = stage_killers(state.settings, index)
        known = self._salvaged.stages.get(index)
        opening = known or planning.next_stage(state, killers)
        assert opening is not None
        opening = opening._replace(at=self._at)
        if settings.continue_ is None:
            self._out.add(opening)
            mismatched = self._mismatched
            numbers, ends = self._add_sampled(settings, killers, over)
            if settings.refine is not None and known is None:
                fits = self._mismatched == mismatched
                self._mismatched = mismatched
                self._out.notes.append(
                    f"stage {settings.name}: its box was lost; the one that follows from what is "
                    f"left {'fits its trials' if fits else 'is another, further points are its'}"
                )
        else:
            numbers = self._continued_trials(settings, opening.trials or ())
            ends = self._settle_rungs(numbers, settings, killers)
            until = [self._until(number, settings, killers, ends) for number in numbers]
            self._out.add(
                opening._replace(
                    trials=numbers, target=len(numbers), epochs=settings.epochs, until=until
                )
            )
        for number in numbers:
            self._add_trial(number, settings, ends, over=over)
        if over:
            self._out.add(events.StageClosed(index, at=self._at))

    def _add_sampled(
        self, settings: Stage, killers: Sequence[Killer], over: bool
    ) -> tuple[list[int], dict[int, str]]:
        """Sample the stage's trials as far as they were; return them, and why a rung ended some."""
        salvaged, first = self._salvaged, len(self._state.trials)
        points = planning.next_points(self._state, killers, settings.trials or 0)
        numbers = [point.trial for point in points]
        ends = self._settle_rungs(numbers, settings, killers)
        if not (over or self._settled):  # once a rung is settled, all trials have been drawn
            last = max(
                (number for number in salvaged.trials if number in numbers), default=first - 1
            )
            points = points[: last + 1 - first]
        for point in points:
            trial = salvaged.trials.get(point.trial, SalvagedTrial())
            params = point.params
            if trial.params is not None and trial.params != params:
                self._mismatched += 1
                params = trial.params
            until = self._until(point.trial, settings, killers, ends)
            self._out.add(point._replace(params=params, until=until, at=self._at))
        if self._settled:  # a trial that left nothing did not pass the rung
            for number in numbers:
                if number not in salvaged.trials:
                    ends.setdefault(number, _LOST)
        return [point.trial for point in points], ends

    def _continued_trials(self, settings: Stage, chosen: Sequence[int]) -> list[int]:
        """Return the stage's trials: those salvaged in it, then those it would choose."""
        trials = self._salvaged.trials.items()
        known = [number for number, trial in sorted(trials) if trial.stage == settings.name]
        count = max(len(chosen), len(known))
        further = [number for number in chosen if number not in known]
        numbers = {*known, *further[: count - len(known)]} & {*self._state.trials}
        return [*(number for number in chosen if number in numbers), *sorted(numbers - {*chosen})]

    def _settle_rungs(
        self, numbers: Sequence[int], settings: Stage, killers: Sequence[Killer]
    ) -> dict[int, str]:
        """Settle again the rungs that some trial has passed; note the last of them.

        Returns why trials that had reached one did not pass it.
        """
        trials, state = self._salvaged.trials, self._state
        ends: dict[int, str] = {}
        self._settled = 0
        for stop in sorted({stop for killer in killers for stop in killer.stops(settings.epochs)}):
            reached = {
                number: _best_until(trials[number], stop, state.objective)
                for number in numbers
                if number in trials and trials[number].done >= stop
            }
            if all(trials[number].done == stop for number in reached):
                break
            self._settled = stop
            for killer in killers:
                if stop in killer.stops(settings.epochs):
                    for number, verdict in killer.settle(stop, reached).items():
                        if verdict.action == "kill" and trials[number].done == stop:
                            ends.setdefault(number, verdict.reason)
        return ends

    def _until(
        self, number: int, settings: Stage, killers: Sequence[Killer], ends: Mapping[int, str]
    ) -> int:
        """Return the stop that a trial trains to: that at which it ended, or the next one."""
        trial = self._salvaged.trials.get(number, SalvagedTrial())
        ended = number in ends or trial.end is not None
        passed = trial.done - 1 if ended else max(self._settled, trial.done - 1)
        return planning.next_stop(killers, passed, settings.epochs)

    def _add_trial(
        self, number: int, settings: Stage, ends: Mapping[int, str], *, over: bool
    ) -> None:
        """Add the events of a trial in a stage, and how it ended."""
        out, record = self._out, self._state.trials[number]
        trial = self._salvaged.trials.get(number)
        if trial is None:
            if over or number in ends:
                self._add_end(number, "killed", ends.get(number, _LOST))
            return
        if trial.attempts > record.attempts or trial.history:
            attempt = max(trial.attempts, record.attempts, 1)
            started = trial.started if math.isfinite(trial.started) else self._at
            out.add(events.TrialStarted(number, attempt, trial.worker, at=started))
        for epoch, (metrics, file) in sorted(trial.history.items()):
            if record.done < epoch <= settings.epochs:
                out.add(events.EpochReported(number, record.attempts, epoch, metrics, file))
        if record.done >= settings.epochs:
            self._add_end(number, "complete", "")
        elif trial.end is not None:
            self._add_end(number, *trial.end)
        elif number in ends:
            self._add_end(number, "killed", ends[number])
        elif over:
            self._add_end(number, "killed", _LOST)
        elif record.attempts:
            # a worker may still train it, in an attempt that left nothing: the next is another
            attempt = record.attempts + 1
            out.add(events.TrialStarted(number, attempt, trial.worker, at=self._at))
            out.add(events.TrialChanged("waiting", number, attempt, why=Outcome.HOLD, at=self._at))

    def _add_end(self, number: int, trial_state: State, reason: str) -> None:
        self._lost_ends += reason == _LOST
        trial = self._salvaged.trials.get(number, SalvagedTrial())
        at = trial.ended if math.isfinite(trial.ended) else self._at
        attempts = self._state.trials[number].attempts
        self._out.add(events.TrialChanged(trial_state, number, attempts, reason, at=at))


def _best_until(trial: SalvagedTrial, stop: int, objective: Objective) -> float:
    """Return the best score up to epoch `stop`; NaN where that of `stop` is not finite."""
    values = {
        epoch: objective.score(objective.of(metrics))
        for epoch, (metrics, _) in trial.history.items()
        if epoch <= stop
    }
    if not math.isfinite(values.get(stop, math.nan)):
        return math.nan
    return max(filter(math.isfinite, values.values()))


def _earliest(salvaged: SalvagedStudy, now: float) -> float:
    return min(
        (trial.started for trial in salvaged.trials.values() if trial.started < now), default=now
    )
