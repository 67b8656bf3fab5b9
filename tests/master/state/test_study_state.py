import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattershot_common.trial import ENDED, STATES, trial_seed
from scattershot_master.search import search
from scattershot_master.state import events
from scattershot_master.state.ledger import LEDGER
from scattershot_master.state.study_state import StudyState
from support.pretend_master import Master, image, study_file
from support.pretend_worker import PretendWorkers
from support.synthetic_study import event

STUDY = study_file().model_dump(mode="json", by_alias=True)
BEGUN = {"e": "study", "study": STUDY, "uid": "u1", "at": 1.0}
STAGE = {"e": "stage", "stage": "coarse", "index": 0, "target": 3, "box": [], "at": 2.0}


def fold(*lines: dict[str, Any]) -> StudyState:
    state = StudyState()
    for line in lines:
        state.apply(events.read(line))
    return state


def sampled(number: int, until: int = 4) -> dict[str, Any]:
    return {"e": "sampled", "t": number, "p": {"lr": 0.1}, "epochs": 4, "until": until, "at": 3.0}


def started(number: int = 0, attempt: int = 1) -> dict[str, Any]:
    return {"e": "started", "t": number, "a": attempt, "w": "w1", "c": "5-1", "at": 4.0}


def report(epoch: int, value: float, number: int = 0) -> dict[str, Any]:
    metrics = {"val_accuracy": value}
    return {"e": "report", "t": number, "a": 1, "n": epoch, "m": metrics, "f": f"file{epoch}"}


def change(trial_state: str, attempt: int = 1, number: int = 0, **more: Any) -> dict[str, Any]:
    return {"e": trial_state, "t": number, "a": attempt, "at": 9.0, **more}


BASE = (BEGUN, STAGE, sampled(0), sampled(1), sampled(2))


@pytest.fixture
def recorded(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The events of a study in which much goes wrong."""
    monkeypatch.setattr(search, "_HOUSEKEEPING", 0.02)

    def fault(trial: int, attempt: int, epoch: int) -> str:
        if trial == 9:
            return "vanish"
        if trial == 7:
            return "fail: ValueError: no"
        return {1: "crash", 2: "drain"}.get(attempt, "") if trial in (6, 8) else ""

    study = study_file(kill={"rule": ["sync_halving", "patience"], "patience": 2})
    with PretendWorkers(redis_url, 3, seed=1, fault=fault):
        assert Master(redis_url, tmp_path, study).run()
    lines = (tmp_path / "pretended" / LEDGER).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_event_twice_changes_nothing(recorded: list[Any]) -> None:
    kinds = {"study", "stage", "closed", "sampled", "started", "report", "waiting", "paused"}
    assert kinds | {"settled", "complete", "failed"} <= {line["e"] for line in recorded}
    state = StudyState()
    for line in recorded:
        state.apply(events.read(line))
        once = image(state)
        state.apply(events.read(line))
        assert image(state) == once, line


def test_the_states_sets_always_say_what_the_trials_say(recorded: list[Any]) -> None:
    state = StudyState()
    for line in recorded:
        state.apply(events.read(line))
        for trial_state in STATES:
            numbers = {
                trial.number for trial in state.trials.values() if trial.state == trial_state
            }
            assert state.by_state[trial_state] == numbers
        assert state.living == sum(trial.living for trial in state.trials.values())


def test_events_of_a_later_version_are_passed_over_and_their_cursor_is_kept() -> None:
    state = fold(*BASE, {"e": "extended", "more": 1, "c": "7-0"})
    assert (state.cursor, len(state.trials)) == ("7-0", 3)


def test_a_study_is_known_by_what_its_file_says() -> None:
    state = fold(BEGUN)
    assert (state.name, state.objective.metric, state.objective.goal) == (
        "pretended",
        "val_accuracy",
        "maximize",
    )
    study = {**STUDY, "study": {**STUDY["study"], "goal": "minimize"}}
    state = fold({**BEGUN, "study": study})
    assert (state.objective.goal, state.objective.sign) == ("minimize", -1)


def test_new_settings_open_a_finished_study_again() -> None:
    state = fold(BEGUN, {"e": "finished", "at": 2.0})
    assert state.finished
    state.apply(event("settings", study=STUDY, at=3.0))
    assert (state.finished, state.uid, state.begun) == (False, "u1", 1.0)


def test_a_sampled_trial_waits_with_the_seed_of_its_number() -> None:
    trial = fold(*BASE).trials[2]
    assert (trial.state, trial.seed, trial.until) == ("waiting", trial_seed(0, 2), 4)
    assert (trial.done, trial.attempts, math.isnan(trial.best_value)) == (0, 0, True)


def test_reports_make_the_history_and_the_first_of_equal_values_is_the_best() -> None:
    values = [0.5, math.nan, 0.7, 0.7, math.inf]
    trial = fold(*BASE, started(), *(report(n, v) for n, v in enumerate(values, 1))).trials[0]
    assert [line["epoch"] for line in trial.history] == [1, 2, 3, 4, 5]
    assert (trial.best_value, trial.best_epoch, trial.best_checkpoint) == (0.7, 3, "file3")
    assert (trial.done, trial.checkpoint) == (5, "file5")


@settings(deadline=None)
@given(st.lists(st.floats(), max_size=12), st.sampled_from(["maximize", "minimize"]))
def test_the_best_value_is_finite_whatever_is_reported(values: list[float], goal: str) -> None:
    study = {**STUDY, "study": {**STUDY["study"], "goal": goal}}
    reports = [report(epoch, value) for epoch, value in enumerate(values, 1)]
    trial = fold({**BEGUN, "study": study}, *BASE[1:], started(), *reports).trials[0]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        assert (trial.best_epoch, math.isnan(trial.best_value)) == (0, True)
    else:
        assert trial.best_value == (max if goal == "maximize" else min)(finite)
        assert trial.best_epoch == values.index(trial.best_value) + 1


def test_an_epoch_without_a_checkpoint_leaves_the_last_one_in_its_place() -> None:
    trial = fold(*BASE, started(), report(1, 0.5), {**report(2, math.nan), "f": ""}).trials[0]
    assert trial.checkpoint == "file1"


def test_an_epoch_that_comes_again_is_not_counted_twice() -> None:
    state = fold(*BASE, started(), report(1, 0.5), report(2, 0.6), started(attempt=2))
    before = image(state)
    state.apply(events.read(report(1, 0.9)))
    state.apply(events.read(report(2, 0.9)))
    assert image(state) == before


@pytest.mark.parametrize("trial_state", sorted(ENDED))
def test_what_comes_after_a_trials_end_changes_nothing(trial_state: str) -> None:
    state = fold(*BASE, started(), change(trial_state, r="so"))
    trial = state.trials[0]
    assert (trial.state, trial.reason, trial.ended, trial.living) == (trial_state, "so", 9.0, False)
    before = image(state)
    for late in ("waiting", "paused", *ENDED):
        state.apply(events.read(change(late, r="late", y="lost")))
        state.apply(events.read(change(late, attempt=2, r="late", y="lost")))
    state.apply(event("kill", t=0, r="late", at=10.0))
    state.apply(events.read(report(1, 0.9)))
    assert image(state) == before


def test_an_ended_trial_that_redis_let_start_again_stays_ended() -> None:
    state = fold(*BASE, started(), report(1, 0.5), change("killed", r="so"), started(attempt=2))
    trial = state.trials[0]
    assert (trial.state, trial.reason, trial.attempts) == ("killed", "so", 2)
    assert state.by_state["killed"] == {0} and not state.by_state["running"]


def test_what_an_earlier_attempt_did_changes_nothing() -> None:
    state = fold(*BASE, started(), change("waiting", y="lost"), started(attempt=2))
    before = image(state)
    for late in ("waiting", "paused", "complete", "failed"):
        state.apply(events.read(change(late)))
    state.apply(events.read(started()))
    assert image(state) == before


@pytest.mark.parametrize(
    ("why", "failures"), [("crash", 1), ("lost", 1), ("drain", 0), ("hold", 0)]
)
def test_crashes_and_losses_count_as_failures(why: str, failures: int) -> None:
    trial = fold(*BASE, started(), change("waiting", y=why, r="gone")).trials[0]
    assert (trial.state, trial.failures, trial.reason) == ("waiting", failures, "gone")


def test_the_first_start_and_the_last_end_are_kept() -> None:
    state = fold(*BASE, started(), change("waiting"), {**started(attempt=2), "at": 50.0})
    state.apply(events.read(change("complete", attempt=2)))
    assert (state.trials[0].started, state.trials[0].ended) == (4.0, 9.0)


def test_a_kill_is_a_wish_until_the_worker_answers() -> None:
    asked = {"e": "kill", "t": 0, "r": "too poor", "at": 5.0}
    state = fold(*BASE, started(), asked, {**asked, "r": "again"})
    assert (state.trials[0].state, state.trials[0].kill_asked) == ("running", "too poor")
    state.apply(events.read(change("killed")))
    trial = state.trials[0]
    assert (trial.state, trial.reason, trial.kill_asked) == ("killed", "too poor", "")


@pytest.mark.parametrize("trial_state", ["waiting", "paused"])
def test_a_kill_stands_while_its_trial_waits(trial_state: str) -> None:
    state = fold(*BASE[:2], sampled(0, until=1), started(), report(1, 0.5))
    state.apply(event("kill", t=0, r="too poor", at=5.0))
    state.apply(events.read(change(trial_state)))
    assert (state.trials[0].state, state.trials[0].kill_asked) == (trial_state, "too poor")
    state.apply(events.read(change("killed")))
    assert state.trials[0].reason == "too poor"


def test_a_kill_that_came_too_late_is_forgotten() -> None:
    asked = {"e": "kill", "t": 0, "r": "too poor", "at": 5.0}
    trial = fold(*BASE, started(), asked, change("complete")).trials[0]
    assert (trial.state, trial.reason, trial.kill_asked) == ("complete", "", "")


def test_a_settled_rung_sends_some_on_and_ends_the_others() -> None:
    state = fold(*BASE[:2], *(sampled(number, until=1) for number in range(3)))
    for number in range(3):
        for line in (started(number), report(1, 0.1, number), change("paused", number=number)):
            state.apply(events.read(line))
    state.apply(event("settled", n=1, go=[1], kill=[[0, "x"], [2, "y"]], until=3, at=7.0))
    assert (state.trials[1].state, state.trials[1].until) == ("waiting", 3)
    assert [state.trials[n].reason for n in (0, 2)] == ["x", "y"]
    assert state.by_state["killed"] == {0, 2}


def test_a_pause_behind_the_times_is_a_wait() -> None:
    state = fold(*BASE[:2], sampled(0, until=1), started(), report(1, 0.1))
    state.apply(event("settled", n=1, go=[0], kill=[], until=3, at=7.0))
    state.apply(events.read(change("paused")))
    assert state.trials[0].state == "waiting"


def test_a_continued_trial_lives_again_under_the_new_stage() -> None:
    state = fold(*BASE, started(), report(4, 0.9), change("complete", r="done"))
    state.apply(
        events.read(
            {
                **STAGE,
                "stage": "final",
                "index": 1,
                "target": 1,
                "trials": [0],
                "epochs": 9,
                "until": [9],
                "box": None,
            }
        )
    )
    trial = state.trials[0]
    assert (trial.state, trial.stage, trial.epochs, trial.until) == ("waiting", "final", 9, 9)
    assert (trial.reason, trial.done, trial.best_value, trial.attempts) == ("", 4, 0.9, 1)
    assert [stage.trials for stage in state.stages] == [[0, 1, 2], [0]]
