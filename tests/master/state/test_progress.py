import math

import pytest

from scattershot_common.study.recorded_settings import StudySettings
from scattershot_master.state import progress
from scattershot_master.state.progress import Rate, finite, rate_from_ends, stages, time_left
from scattershot_master.state.study_state import StudyState
from support.synthetic_study import BEGUN, STAGES, Simulation


@pytest.fixture(scope="module")
def finished() -> StudyState:
    return Simulation().run()


def part_of(limit: int) -> Simulation:
    simulation = Simulation()
    simulation.run(limit)
    return simulation


def test_every_stage_of_the_study_file_has_its_progress_also_those_to_come() -> None:
    shown = stages(part_of(60).state)
    assert [(stage.name, stage.opened) for stage in shown] == [
        ("coarse", True),
        ("fine", False),
        ("final", False),
    ]
    assert [stage.target for stage in shown] == [48, 24, 5]


def test_counts_of_a_stage_add_up_to_its_trials(finished: StudyState) -> None:
    for stage in stages(finished):
        assert sum(stage.counts.values()) == stage.done == stage.target
        assert stage.work == 1.0


def test_a_trial_that_went_on_counts_as_complete_where_it_came_from(finished: StudyState) -> None:
    by_name = {stage.name: stage for stage in stages(finished)}
    carried = finished.stages[2].trials
    origins = {
        stage.name: [number for number in stage.trials if number in carried]
        for stage in finished.stages[:2]
    }
    for name, numbers in origins.items():
        stayed = [
            trial
            for trial in finished.trials.values()
            if trial.stage == name and trial.state == "complete"
        ]
        assert by_name[name].counts["complete"] == len(stayed) + len(numbers)


def test_the_best_of_a_stage_is_what_it_was_when_the_stage_ended(finished: StudyState) -> None:
    _, fine, final = stages(finished)
    assert fine.best_trial is not None and final.best_trial is not None
    record = finished.trials[fine.best_trial]
    by_then = [line["val_accuracy"] for line in record.history if line["epoch"] <= fine.epochs]
    assert fine.best_value == max(by_then)
    assert final.best_value == max(trial.best_value for trial in finite(finished))


def test_a_stage_without_a_finite_value_has_no_best() -> None:
    stage = stages(part_of(3).state)[0]
    assert stage.best_trial is None
    assert math.isnan(stage.best_value)


def test_epochs_trained_are_those_reported(finished: StudyState) -> None:
    trained = sum(stage.trained for stage in stages(finished))
    assert trained == sum(len(trial.history) for trial in finished.trials.values())


def test_trials_that_go_on_from_different_stages_bring_their_own_epochs() -> None:
    simulation = Simulation(
        [
            {"name": "coarse", "trials": 10, "epochs": 2},
            {"name": "fine", "trials": 2, "epochs": 8, "refine": 0.25},
            {"name": "final", "continue": 5, "epochs": 30},
        ],
        rule="none",
    )
    for event in simulation.events():
        if event["e"] == "stage" and event["index"] == 2:
            done = [simulation.state.trials[number].done for number in event["trials"]]
            assert sorted(set(done)) == [2, 8]
            assert stages(simulation.state)[2].left == sum(30 - epochs for epochs in done)
    trained = sum(stage.trained for stage in stages(simulation.state))
    assert trained == sum(len(trial.history) for trial in simulation.state.trials.values())


def test_nothing_is_left_of_a_finished_study(finished: StudyState) -> None:
    assert sum(stage.left for stage in stages(finished)) == 0


def test_without_rules_all_epochs_are_left() -> None:
    simulation = Simulation(rule="none")
    simulation.run(2)
    assert sum(stage.left for stage in stages(simulation.state)) == 48 * 2 + 24 * 8 + 5 * (30 - 8)


def test_trials_killed_early_shorten_what_is_expected_of_the_others() -> None:
    shown = stages(part_of(220).state)
    coarse = shown[0]
    assert coarse.done >= progress.LEAST_ENDED
    assert coarse.left < (coarse.target - coarse.done) * coarse.epochs
    assert shown[1].left < 24 * 8


def test_leaders_are_the_ranking_s_first(finished: StudyState) -> None:
    assert progress.leaders(finished, 7) == finite(finished)[:7]
    assert progress.leaders(finished, 10_000) == finite(finished)


def test_leaders_of_a_loss_are_the_smallest() -> None:
    state = Simulation().run(150)
    study = {**state.settings.recorded["study"], "goal": "minimize"}
    state.settings = StudySettings({**state.settings.recorded, "study": study})
    state.trials[0].best_value = 0.001
    assert progress.leaders(state, 1)[0].number == 0
    assert progress.leaders(state, 5) == finite(state)[:5]


def test_a_rate_needs_evidence() -> None:
    rate = Rate()
    assert rate.update(0.0, 100) is None
    assert rate.update(1.0, 200) is None  # too short
    assert rate.update(5.0, 200) == 20.0


def test_a_rate_forgets_what_is_long_ago() -> None:
    rate = Rate()
    for second in range(100):
        rate.update(second, second)
    for second in range(100, 200):
        found = rate.update(second, 99 + 10 * (second - 99))
    assert found == pytest.approx(10.0)


def test_a_rate_of_slow_epochs_looks_back_as_far_as_it_must() -> None:
    rate = Rate()
    found = [rate.update(600.0 * epoch, epoch) for epoch in range(12)]
    assert found[-1] == pytest.approx(1 / 600)


def test_a_rate_falls_while_nothing_comes() -> None:
    rate = Rate()
    rate.update(0, 0)
    rate.update(10, 100)
    assert rate.update(100, 100) == 1.0


def test_the_time_left_is_right_for_a_study_that_goes_on_as_it_did() -> None:
    simulation = Simulation([{"name": "all", "trials": 60, "epochs": 10}], rule="none")
    simulation.run(500)
    left = time_left(stages(simulation.state), rate_from_ends(simulation.state, simulation.now))
    now = simulation.now
    whole = Simulation([{"name": "all", "trials": 60, "epochs": 10}], rule="none")
    whole.run()
    assert left == pytest.approx(whole.now - now, rel=0.2)


def test_there_is_no_time_left_before_trials_have_ended() -> None:
    simulation = part_of(60)
    assert rate_from_ends(simulation.state, simulation.now) is None
    assert time_left(stages(simulation.state), None) is None


def test_a_finished_study_took_until_its_last_trial_ended(finished: StudyState) -> None:
    last = max(trial.ended for trial in finished.trials.values() if not math.isnan(trial.ended))
    assert progress.elapsed(finished, BEGUN + 1e9) == last - BEGUN


def test_failures_that_differ_in_numbers_only_are_one() -> None:
    state = Simulation().run()
    failed = sorted(state.by_state["failed"])
    assert len(failed) == 2
    state.trials[failed[0]].reason = "RuntimeError: got 12.5 GiB"
    state.trials[failed[1]].reason = "RuntimeError: got 3 GiB"
    assert progress.failures(state) == [("RuntimeError: got 12.5 GiB", failed)]
    state.trials[failed[1]].reason = "ValueError: no"
    assert len(progress.failures(state)) == 2


def test_a_worker_s_last_trial_is_the_one_it_runs() -> None:
    simulation = part_of(100)
    last = progress.last_trials(simulation.state)
    running = {simulation.state.trials[n].worker: n for n in simulation.state.by_state["running"]}
    assert running
    assert {name: last[name].number for name in running} == running


def test_a_trial_taken_up_again_is_its_worker_s_last_although_it_began_long_ago() -> None:
    simulation = part_of(100)
    state, worker = simulation.state, "host-7-1"
    old = min(state.by_state["complete"], key=lambda number: state.trials[number].started)
    other = max(state.by_state["killed"], key=lambda number: state.trials[number].ended)
    state.trials[other].worker = worker
    state.trials[old].worker, state.trials[old].ended = worker, math.nan
    state.trials[old].state = "running"
    assert progress.last_trials(state)[worker].number == old


def test_stages_that_kill_nothing_are_expected_to_take_all_their_epochs() -> None:
    simulation = Simulation([*STAGES[:2], {**STAGES[2], "kill": "none"}])
    simulation.run(220)
    assert stages(simulation.state)[2].left == 5 * (30 - 8)
