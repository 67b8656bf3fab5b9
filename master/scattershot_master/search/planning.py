"""What a study does next: which stage opens, which points are drawn, which rung is settled.

Pure: functions of the study's state to the event that is to be appended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scattershot_common.space.space import Box
from scattershot_master.killers.killer import Killer
from scattershot_master.samplers import SAMPLERS
from scattershot_master.samplers.sampler import Observation
from scattershot_master.search.refine import refine, select_continue
from scattershot_master.state.events import RungSettled, StageOpened, TrialSampled
from scattershot_master.state.progress import finite
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord


def current_stage(state: StudyState) -> StageRecord | None:
    """Return the stage that is open, or None between stages."""
    return state.stages[-1] if state.stages and not state.stages[-1].closed else None


def stage_done(state: StudyState, stage: StageRecord) -> bool:
    """Return whether every trial of the open stage has been sampled and has ended."""
    return len(stage.trials) >= stage.target and not state.living


def next_stage(state: StudyState, killers: Sequence[Killer]) -> StageOpened | None:
    """Return the event that opens the next stage, or None when the study has no further one."""
    index = len(state.stages)
    if index >= len(state.settings.stages):
        return None
    stage = state.settings.stages[index]
    if stage.continue_ is not None:
        return _continuation(state, index, killers)
    space = state.settings.space
    box, notes = space.whole(), []
    if stage.refine is not None:
        base = _last_sampled(state)
        drawn = [state.trials[number] for number in base.trials]
        candidates = [trial.params for trial in finite(state, drawn)]
        if candidates:
            narrowing = refine(space, Box.from_json(base.box), candidates, stage.refine)
            box, notes = narrowing.box, list(narrowing.notes)
        else:
            notes = ["no trial before has a finite result: the whole space is searched again"]
    return StageOpened(stage.name, index, stage.target, box=box.to_json(), notes=notes)


def _continuation(state: StudyState, index: int, killers: Sequence[Killer]) -> StageOpened:
    stage = state.settings.stages[index]
    complete = [
        trial.number
        for trial in finite(state)
        if trial.state == "complete" and trial.done < stage.epochs
    ]
    chosen = select_continue(complete, stage.target)
    notes = []
    if len(chosen) < stage.target:
        notes.append(
            f"only {len(chosen)} trials are complete and can go on, of {stage.target} asked for"
        )
    return StageOpened(
        stage.name,
        index,
        len(chosen),
        trials=chosen,
        epochs=stage.epochs,
        until=[next_stop(killers, state.trials[number].done, stage.epochs) for number in chosen],
        notes=notes,
    )


def _last_sampled(state: StudyState) -> StageRecord:
    """Return the last stage that drew points: the one to refine around."""
    return next(stage for stage in reversed(state.stages) if stage.box is not None)


def next_points(state: StudyState, killers: Sequence[Killer], count: int) -> list[TrialSampled]:
    """Return the sampling events of up to `count` further trials of the open stage.

    Point i of a stage is a function of (seed, stage, i), and of the stage's box, unless its
    sampler uses results.
    """
    stage, settings = state.stages[-1], state.settings
    epochs = settings.stages[stage.index].epochs
    first, number = len(stage.trials), len(state.trials)
    count = min(count, stage.target - first)
    if count <= 0:
        return []
    box = Box.from_json(stage.box)
    sampler = SAMPLERS[settings.sampler(stage.index)](settings.seed, stage.name, box)
    history = _observations(state) if sampler.uses_history else ()
    until = next_stop(killers, 0, epochs)
    return [
        TrialSampled(number + k, settings.space.at(box.at(point)), epochs, until)
        for k, point in enumerate(sampler.ask(first, count, history))
    ]


def _observations(state: StudyState) -> list[Observation]:
    locate, score = state.settings.space.locate, state.objective.score
    ended = [trial for trial in state.trials.values() if not trial.living]
    return [Observation(locate(trial.params), score(trial.best_value)) for trial in ended]


def next_stop(killers: Sequence[Killer], done: int, budget: int) -> int:
    """Return the epoch a trial trains to before it waits for its peers, at most its budget."""
    stops = [stop for killer in killers for stop in killer.stops(budget) if stop > done]
    return min(stops, default=budget)


def due_rung(state: StudyState, killers: Sequence[Killer]) -> RungSettled | None:
    """Return the settling of a rung once all living trials of the stage wait for each other."""
    stage = state.stages[-1]
    waiting = state.by_state["paused"]
    if not waiting or len(waiting) < state.living or len(stage.trials) < stage.target:
        return None
    trials = [state.trials[number] for number in sorted(waiting)]
    if any(trial.kill_asked for trial in trials):
        return None  # paused before its kill arrived: whether it counts must not depend on that
    epoch = min(trial.until for trial in trials)
    standings = {trial.number: _standing(state, trial) for trial in trials if trial.until == epoch}
    reasons: dict[int, str] = {}
    for killer in killers:
        if epoch in killer.stops(trials[0].epochs):
            for number, verdict in killer.settle(epoch, standings).items():
                if verdict.action == "kill":
                    reasons.setdefault(number, verdict.reason)
    return RungSettled(
        epoch,
        go=[number for number in standings if number not in reasons],
        kill=sorted(reasons.items()),
        until=next_stop(killers, epoch, trials[0].epochs),
    )


def _standing(state: StudyState, trial: TrialRecord) -> float:
    """Return the best value so far, larger is better; NaN if the last one is not finite."""
    objective = state.objective
    last = objective.of(trial.history[-1]) if trial.history else math.nan
    return objective.score(trial.best_value) if math.isfinite(last) else math.nan
