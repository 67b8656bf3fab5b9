import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattershot_common.objective import Objective
from scattershot_common.space.space import Box
from scattershot_common.study.recorded_settings import StudySettings
from scattershot_common.study.settings import StudyFile
from scattershot_master.killers.killer import Killer, Verdict
from scattershot_master.killers.make_killers import build, stage_killers
from scattershot_master.samplers import SAMPLERS
from scattershot_master.samplers.sampler import Observation
from scattershot_master.search import planning
from scattershot_master.state import events
from scattershot_master.state.study_state import StudyState
from support.pretend_master import SPACE, study_file
from support.synthetic_study import event

LOSS = Objective("val_accuracy", "minimize")
HALVING = build(["sync_halving"], {"grace": 1, "eta": 3})


def state_of(study: StudyFile) -> StudyState:
    state = StudyState()
    dumped = study.model_dump(mode="json", by_alias=True)
    state.apply(event("study", study=dumped, uid="u1", at=1.0))
    return state


def open_next(
    state: StudyState, study: StudyFile, killers: Sequence[Killer] = ()
) -> events.StageOpened:
    opening = planning.next_stage(state, killers)
    assert opening is not None
    state.apply(opening)
    return opening


def sample(
    state: StudyState, study: StudyFile, count: int = 999, killers: Sequence[Killer] = ()
) -> list[events.TrialSampled]:
    points = planning.next_points(state, killers, count)
    for point in points:
        state.apply(point)
    return points


def train(state: StudyState, number: int, values: Sequence[float], end: str = "complete") -> None:
    """Report values from where the trial is, and end its attempt."""
    trial = state.trials[number]
    about = {"t": number, "a": trial.attempts + 1, "at": 4.0}
    state.apply(event("started", w="w1", **about))
    for epoch, value in enumerate(values, trial.done + 1):
        state.apply(event("report", n=epoch, m={"val_accuracy": value}, f="f", **about))
    if end:
        state.apply(event(end, **about))


def close(state: StudyState) -> None:
    state.apply(event("closed", index=len(state.stages) - 1, at=5.0))


# ---- stages


def test_stages_open_in_their_order_and_none_after_the_last() -> None:
    study = study_file()
    state = state_of(study)
    assert planning.current_stage(state) is None
    for index, name in enumerate(["coarse", "fine", "final"]):
        opening = open_next(state, study)
        assert (opening.stage, opening.stage_index) == (name, index)
        stage = planning.current_stage(state)
        assert stage is not None
        assert stage.name == name
        for point in sample(state, study):
            train(state, point.trial, [0.5] * point.epochs)
        for number in stage.trials if name == "final" else []:
            train(state, number, [0.5] * 4)
        assert planning.stage_done(state, stage)
        close(state)
    assert planning.next_stage(state, []) is None


def test_a_stage_is_done_when_all_its_trials_are_sampled_and_have_ended() -> None:
    study = study_file()
    state = state_of(study)
    open_next(state, study)
    stage = state.stages[0]
    assert not planning.stage_done(state, stage)
    sample(state, study, 9)
    ends = ["complete", "killed", "failed"] * 3
    for number, end in enumerate(ends):
        train(state, number, [0.5], end)
    assert not planning.stage_done(state, stage)  # the tenth is still to come
    sample(state, study)
    for end in ("", "waiting", "paused"):
        train(state, 9, [], end)
        assert not planning.stage_done(state, stage)
    train(state, 9, [], "failed")
    assert planning.stage_done(state, stage)


def test_a_refined_stage_draws_from_the_box_around_the_best() -> None:
    study = study_file()
    state = state_of(study)
    assert open_next(state, study).box == study.space.whole().to_json()
    for point in sample(state, study):
        train(state, point.trial, [-abs(math.log10(float(point.params["lr"])) + 2)])
    close(state)
    opening = open_next(state, study)
    box = Box.from_json(opening.box)
    assert box != study.space.whole()
    assert any(note.startswith("lr: [1e-05, 1] → [") for note in opening.notes or ())
    low, high = box.sides[0][0]
    assert 0.1 <= high - low < 0.7
    assert low < study.space.locate({"lr": 1e-2, "dropout": 0.1, "units": 16})[0] < high
    for point in sample(state, study):
        assert low <= study.space.locate(point.params)[0] <= high


def test_refining_starts_from_the_last_stage_that_drew_points() -> None:
    stages = [
        {"name": "coarse", "trials": 6, "epochs": 1},
        {"name": "more", "continue": 2, "epochs": 2},
        {"name": "fine", "trials": 4, "epochs": 1, "refine": 0.5},
        {"name": "finer", "trials": 4, "epochs": 1, "refine": 0.5},
    ]
    study = study_file(stage=stages)
    state = state_of(study)
    widths = []
    for stage in stages:
        opening = open_next(state, study)
        for point in sample(state, study):
            train(state, point.trial, [-abs(math.log10(float(point.params["lr"])) + 2)])
        for number in state.stages[-1].trials if "continue" in stage else []:
            train(state, number, [0.0])
        close(state)
        if opening.box:
            ((low, high),) = Box.from_json(opening.box).sides[0]
            widths.append(high - low)
    assert widths[0] > widths[1] > widths[2]


def test_refining_around_nothing_searches_the_whole_space_and_says_so() -> None:
    study = study_file()
    state = state_of(study)
    open_next(state, study)
    for point in sample(state, study):
        train(state, point.trial, [math.nan], "failed")
    close(state)
    opening = open_next(state, study)
    assert opening.box == study.space.whole().to_json()
    assert opening.notes == [
        "no trial before has a finite result: the whole space is searched again"
    ]


def continuing(
    ends: Iterable[tuple[float, str]], count: int, epochs: int = 9
) -> events.StageOpened:
    """Return the opening of a stage that continues after trials of 4 epochs ended like this."""
    ends = list(ends)
    stages = [
        {"name": "coarse", "trials": max(len(ends), 1), "epochs": 4},
        {"name": "final", "continue": count, "epochs": epochs},
    ]
    study = study_file(stage=stages)
    state = state_of(study)
    open_next(state, study)
    sample(state, study, len(ends))
    for number, (value, end) in enumerate(ends):
        train(state, number, [value] * 4, end)
    close(state)
    return open_next(state, study, HALVING)


def test_the_best_complete_trials_go_on_with_the_larger_budget() -> None:
    ends = [
        (0.5, "complete"),
        (0.9, "killed"),
        (0.7, "complete"),
        (0.7, "complete"),
        (math.nan, "complete"),
        (0.8, "failed"),
        (math.inf, "complete"),
        (0.6, "complete"),
    ]
    opening = continuing(ends, 3)
    assert (opening.trials, opening.target, opening.notes) == ([2, 3, 7], 3, [])
    assert opening.epochs == 9
    assert opening.until == [9, 9, 9]  # epoch 3 is behind them, epoch 9 is the end
    assert continuing(ends, 1, epochs=28).until == [9]
    assert "box" not in opening


def test_fewer_trials_than_asked_for_go_on_with_a_note() -> None:
    opening = continuing([(0.5, "complete"), (0.9, "killed")], 2)
    assert (opening.trials, opening.target) == ([0], 1)
    assert opening.notes == ["only 1 trials are complete and can go on, of 2 asked for"]


def test_a_stage_that_nobody_can_join_is_done_at_once() -> None:
    stages = [
        {"name": "coarse", "trials": 2, "epochs": 4},
        {"name": "final", "continue": 2, "epochs": 9},
    ]
    study = study_file(stage=stages)
    state = state_of(study)
    open_next(state, study)
    for point in sample(state, study):
        train(state, point.trial, [0.5], "killed")
    close(state)
    open_next(state, study)
    assert planning.stage_done(state, state.stages[1])
    assert planning.next_points(state, [], 5) == []


def test_trials_that_have_the_epochs_already_do_not_go_on() -> None:
    stages = [
        {"name": "coarse", "trials": 3, "epochs": 4},
        {"name": "long", "continue": 1, "epochs": 9},
        {"name": "again", "continue": 2, "epochs": 9},
    ]
    study = study_file(stage=stages)
    state = state_of(study)
    open_next(state, study)
    for number in [point.trial for point in sample(state, study)]:
        train(state, number, [0.5 + number / 10] * 4)
    close(state)
    assert open_next(state, study).trials == [2]
    train(state, 2, [0.9] * 5)
    close(state)
    assert open_next(state, study).trials == [1, 0]


# ---- points


@pytest.mark.parametrize("sampler", ["random", "sobol"])
@settings(deadline=None)
@given(chunks=st.lists(st.integers(-1, 7), max_size=30))
def test_points_are_the_same_however_many_are_drawn_at_a_time(
    sampler: str, chunks: list[int]
) -> None:
    study = study_file(study={"name": "points", "task": "digits", "sampler": sampler})
    whole, parts = state_of(study), state_of(study)
    open_next(whole, study)
    open_next(parts, study)
    expected = sample(whole, study)
    found = [point for count in chunks for point in sample(parts, study, count)]
    assert found == expected[: len(found)]
    assert len(found) == min(10, sum(max(count, 0) for count in chunks))
    assert found + sample(parts, study) == expected


def test_points_depend_on_the_studys_seed_and_the_stages_name_alone() -> None:
    def points(seed: int = 0, name: str = "coarse", **more: Any) -> list[Any]:
        stages = [{"name": name, "trials": 5, "epochs": 3, **more}]
        study = study_file(study={"name": "p", "task": "digits", "seed": seed}, stage=stages)
        state = state_of(study)
        open_next(state, study)
        return [point.params for point in sample(state, study)]

    assert points() == points(kill="none") == points()
    assert points() != points(seed=1)
    assert points() != points(name="other")
    flat = [str(point) for seed in range(20) for point in points(seed)]
    assert len(set(flat)) == len(flat)


def test_numbers_go_on_from_stage_to_stage() -> None:
    study = study_file()
    state = state_of(study)
    for _ in range(2):
        open_next(state, study)
        sample(state, study)
        close(state)
    assert [stage.trials for stage in state.stages] == [[*range(10)], [*range(10, 16)]]


def test_a_space_of_fixed_values_can_be_sampled() -> None:
    study = study_file(space={"lr": 0.1})
    state = state_of(study)
    open_next(state, study)
    assert [point.params for point in sample(state, study, 2)] == [{"lr": 0.1}] * 2


def test_points_tell_the_budget_and_the_first_stop() -> None:
    study = study_file(stage=[{"name": "long", "trials": 2, "epochs": 30}])
    state = state_of(study)
    open_next(state, study)
    (first,) = planning.next_points(state, HALVING, 1)
    assert (first.trial, first.epochs, first.until) == (0, 30, 1)
    (first,) = planning.next_points(state, [], 1)
    assert first.until == 30


# ---- stops and rungs


@dataclass(frozen=True, kw_only=True)
class Stopping(Killer):
    """Stops where it is told to; kills whom it is told to."""

    at: tuple[int, ...] = ()
    kills: tuple[int, ...] = ()
    word: str = "so"

    def stops(self, budget: int) -> Sequence[int]:
        return [epoch for epoch in self.at if epoch < budget]

    def settle(self, epoch: int, standings: Mapping[int, float]) -> Mapping[int, Verdict]:
        return {
            trial: Verdict("kill" if trial in self.kills else "continue", self.word)
            for trial in standings
        }


@pytest.mark.parametrize(
    ("done", "budget", "stop"),
    [(0, 30, 2), (2, 30, 3), (3, 30, 4), (4, 30, 9), (9, 30, 30), (0, 1, 1), (3, 4, 4), (0, 2, 2)],
)
def test_the_next_stop_is_the_nearest_of_all_killers_and_at_most_the_budget(
    done: int, budget: int, stop: int
) -> None:
    killers = [Stopping(at=(3, 9)), Killer(), Stopping(at=(2, 4))]
    assert planning.next_stop(killers, done, budget) == stop


def test_without_a_killer_that_stops_there_is_no_stop() -> None:
    assert planning.next_stop([], 0, 7) == 7
    assert planning.next_stop([Killer()], 3, 7) == 7


def rung_of(
    values: Sequence[float],
    *,
    killers: Sequence[Killer] = HALVING,
    trials: int | None = None,
    goal: str = "maximize",
) -> tuple[StudyState, StudyFile]:
    """Return a study's state on which trials stand at their first rung with these values."""
    stages = [{"name": "coarse", "trials": trials or len(values), "epochs": 9}]
    tables = {"study": {"name": "rungs", "task": "digits", "goal": goal}, "stage": stages}
    study = study_file(**tables)
    state = state_of(study)
    open_next(state, study, killers)
    sample(state, study, len(values), killers)
    for number, value in enumerate(values):
        train(state, number, [value], "paused")
    return state, study


def test_a_rung_is_settled_when_everybody_stands_at_it() -> None:
    state, _ = rung_of([0.1, 0.9, 0.5, 0.7])
    rung = planning.due_rung(state, HALVING)
    assert rung is not None
    assert (rung.epoch, rung.go, rung.until) == (1, [1, 3], 3)
    assert [number for number, _ in rung.kill] == [0, 2]
    assert "0.5 is not among the best 2 of 4" in rung.kill[1][1]


@pytest.mark.parametrize("trial_state", ["waiting", "running"])
def test_a_rung_waits_for_everybody_who_lives(trial_state: str) -> None:
    state, _ = rung_of([0.1, 0.9, 0.5, 0.7])
    train(state, 2, [], "" if trial_state == "running" else trial_state)
    assert state.trials[2].state == trial_state
    assert planning.due_rung(state, HALVING) is None
    train(state, 2, [], "failed")
    rung = planning.due_rung(state, HALVING)
    assert rung is not None
    assert (rung.go, [number for number, _ in rung.kill]) == ([1], [0, 3])


def test_a_rung_waits_for_trials_that_are_not_sampled_yet() -> None:
    state, study = rung_of([0.1, 0.9], trials=3)
    assert planning.due_rung(state, HALVING) is None
    sample(state, study, killers=HALVING)
    assert planning.due_rung(state, HALVING) is None
    train(state, 2, [0.5], "paused")
    assert planning.due_rung(state, HALVING) is not None


def test_a_rung_waits_for_the_end_of_trials_that_are_to_be_killed() -> None:
    state, _ = rung_of([0.1, 0.9, 0.5, 0.7])
    state.apply(event("kill", t=3, r="diverged", at=5.0))
    assert planning.due_rung(state, HALVING) is None
    state.apply(event("killed", t=3, a=1, r="diverged", at=5.0))
    rung = planning.due_rung(state, HALVING)
    assert rung is not None
    assert rung.go == [1]


def test_nobody_at_a_rung_is_no_rung() -> None:
    state, _ = rung_of([], trials=2)
    assert planning.due_rung(state, HALVING) is None


def test_ties_at_a_rung_go_to_the_lower_number_and_nan_never_goes_on() -> None:
    state, _ = rung_of([math.nan, 0.5, 0.5, 0.5, math.inf, -math.inf])
    rung = planning.due_rung(state, HALVING)
    assert rung is not None
    assert rung.go == [1, 2]
    state, _ = rung_of([math.nan] * 4)
    rung = planning.due_rung(state, HALVING)
    assert rung is not None
    assert (rung.go, len(rung.kill)) == ([], 4)


def test_the_smaller_goes_on_where_the_goal_is_to_minimize() -> None:
    killers = build(["sync_halving"], {"grace": 1, "eta": 3}, objective=LOSS)
    state, _ = rung_of([0.1, 0.9, 0.5], killers=killers, goal="minimize")
    rung = planning.due_rung(state, killers)
    assert rung is not None
    assert rung.go == [0]
    assert "0.5 is not among" in dict(rung.kill)[2]


def test_a_trial_stands_by_its_best_value_unless_the_last_one_is_none() -> None:
    killers = [Stopping(at=(3,))]
    state, _ = rung_of([], killers=killers, trials=2)
    study = study_file(stage=[{"name": "coarse", "trials": 2, "epochs": 9}])
    sample(state, study, killers=killers)
    train(state, 0, [0.2, 0.8, 0.3], "paused")
    train(state, 1, [0.2, 0.9, math.nan], "paused")
    settled: dict[int, float] = {}

    class Looking(Stopping):
        def settle(self, epoch: int, standings: Mapping[int, float]) -> Mapping[int, Verdict]:
            settled.update(standings)
            return {}

    planning.due_rung(state, [Looking(at=(3,))])
    assert settled[0] == 0.8
    assert math.isnan(settled[1])


def test_each_killer_settles_its_own_rungs_and_the_first_reason_counts() -> None:
    killers = [
        Stopping(at=(3,), kills=(0, 1, 2, 3), word="not here"),
        Stopping(at=(1,), kills=(0, 1), word="first"),
        Stopping(at=(1, 2), kills=(1, 2), word="second"),
    ]
    state, _ = rung_of([0.5] * 4, killers=killers)
    rung = planning.due_rung(state, killers)
    assert rung is not None
    assert rung.kill == [(0, "first"), (1, "first"), (2, "second")]
    assert (rung.go, rung.until) == ([3], 2)


def test_trials_at_a_later_rung_wait_for_those_at_an_earlier_one() -> None:
    killers = [Stopping(at=(1, 3))]
    state, _ = rung_of([0.5, 0.6], killers=killers)
    state.apply(event("settled", n=1, go=[1], kill=[], until=3, at=6.0))
    train(state, 1, [0.6, 0.6], "paused")
    rung = planning.due_rung(state, killers)
    assert rung is not None
    assert (rung.epoch, rung.go, rung.kill) == (1, [0], [])


def test_the_stages_own_rules_stand_in_for_the_studys() -> None:
    stages = [
        {"name": "coarse", "trials": 4, "epochs": 9},
        {"name": "fine", "trials": 4, "epochs": 9, "kill": "none"},
    ]
    study = study_file(stage=stages, space=SPACE)
    recorded = StudySettings(study.model_dump(mode="json", by_alias=True))
    assert [killer.stops(9) for killer in stage_killers(recorded, 0)] == [[1, 3]]
    assert stage_killers(recorded, 1) == []


class Follower:
    """A sampler that draws the best point so far again."""

    uses_history = True

    def __init__(self, seed: int, stage: str, box: Box) -> None:
        self.dims = len(box.sides)

    def ask(
        self, first: int, count: int, history: Sequence[Observation] = ()
    ) -> list[Sequence[float]]:
        best = max(history, key=lambda one: one.score, default=None)
        return [best.point if best else [0.5] * self.dims] * count


def test_a_sampler_that_uses_results_gets_the_trials_that_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SAMPLERS, "random", Follower)
    space = {"lr": {"uniform": [0.0, 1.0]}}
    study = study_file(stage=[{"name": "coarse", "trials": 4, "epochs": 9}], space=space)
    state = state_of(study)
    open_next(state, study)
    (first,) = sample(state, study, 1)
    assert first.params == {"lr": 0.5}
    state.trials[0].params = {"lr": 0.25}
    sample(state, study, 1)
    assert state.trials[1].params == {"lr": 0.5}  # trial 0 has not ended
    train(state, 0, [0.9])
    train(state, 1, [0.1])
    (point,) = sample(state, study, 1)
    assert point.params == {"lr": 0.25}
