"""The life of a trial in Redis: every script, every fence, every way in which a trial ends."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.stream import Event, EventStream
from scattershot_common.bus.trial_state import LEASE, TrialStates, finish, report
from scattershot_common.bus.workers import redis_time
from support.redis_backends import ConnectRedis

ODD_NAMES = ["digits.v2", "a-1-a1", "два слова", "q\"uo'te\\", "{x}*?[a]", "new\nline %s"]
STATES = ["waiting", "running", "paused", "complete", "killed", "failed"]


@pytest.fixture
def states(connect_redis: ConnectRedis) -> TrialStates:
    return TrialStates(connect_redis(), "digits")


def do(states: TrialStates, *steps: Any) -> Any:
    """Run one step, or several in one round trip."""
    answers = states.run(steps)
    return answers[0] if len(steps) == 1 else answers


def everything(states: TrialStates) -> dict[str, Any]:
    """Return all that Redis holds of the study."""
    redis, keys = states.connection, states.keys
    return {
        "trials": {key: redis.hgetall(key) for key in sorted(redis.scan_iter(f"{keys.prefix}*"))},
        "running": redis.zrange(keys.running, 0, -1, withscores=True),
        "events": redis.xrange(keys.events),
    }


def trial(states: TrialStates, number: int = 7) -> dict[str, str]:
    fields: Any = states.connection.hgetall(states.keys.trial(number))
    return dict(fields)


def events(states: TrialStates) -> list[Event]:
    return EventStream(states.connection, states.keys.study).read("", block_ms=None)


def kinds(states: TrialStates) -> list[str]:
    return [event.kind for event in events(states)]


def lease(states: TrialStates, number: int = 7) -> float | None:
    score: float | None = states.connection.zscore(states.keys.running, str(number))
    return score


def let_lease_run_out(states: TrialStates, number: int = 7) -> None:
    states.connection.zadd(states.keys.running, {str(number): 1})


def begin(states: TrialStates, until: int = 4, number: int = 7) -> None:
    """Bring a trial to its first attempt."""
    states.submit(number, until)
    assert states.claim(number, 1, "w1").granted


def train(states: TrialStates, until: int, metrics: dict[str, float] | None = None) -> None:
    """Report the epochs up to `until` of trial 7's first attempt, with files of their names."""
    do(states, *(report(7, 1, n, metrics or {}, f"file{n}") for n in range(1, until + 1)))


def bring_to(states: TrialStates, state: str) -> None:
    """Bring trial 7 to `state`, on its first attempt where it had one."""
    if state == "waiting":
        states.submit(7, 4)
        return
    begin(states)
    if state != "running":
        train(states, 4)
        assert do(states, finish(7, 1, state)) == state


# ---- submit


def test_a_submitted_trial_waits_with_no_attempt_yet(states: TrialStates) -> None:
    assert states.submit(7, 4) == ("waiting", 0)
    assert trial(states)["until"] == "4"


def test_a_trial_from_the_ledger_goes_on_where_it_was(states: TrialStates) -> None:
    states.submit(7, 8, attempt=2, epoch=3, checkpoint="file", failures=1)
    assert not states.claim(7, 2, "w1").granted
    claim = states.claim(7, 3, "w1")
    assert (claim.granted, claim.epoch, claim.checkpoint, claim.until) == (True, 3, "file", 8)


@pytest.mark.parametrize("state", STATES)
def test_submitting_twice_changes_nothing(states: TrialStates, state: str) -> None:
    bring_to(states, state)
    before = everything(states)
    answer = states.submit(7, 4, attempt=0, epoch=0, checkpoint="other", failures=2)
    assert answer == (state, 0 if state == "waiting" else 1)
    assert everything(states) == before


@pytest.mark.parametrize("state", STATES)
def test_what_redis_has_lost_is_made_good_by_submitting_again(
    states: TrialStates, state: str
) -> None:
    bring_to(states, state)
    answer = states.submit(7, 4, attempt=5, epoch=6, checkpoint="file6", failures=2)
    # who runs now is not cut off: its attempt is an old one, and its lease decides
    assert answer == (state, 1 if state == "running" else 5)
    fields = trial(states)
    assert (fields["state"], fields["epoch"], fields["checkpoint"]) == (state, "6", "file6")
    if state == "waiting":
        assert not states.claim(7, 5, "w5").granted
        assert states.claim(7, 6, "w6").epoch == 6


@pytest.mark.parametrize("state", STATES)
def test_a_larger_budget_wakes_paused_and_complete_trials_only(
    states: TrialStates, state: str
) -> None:
    bring_to(states, state)
    after = "waiting" if state in ("paused", "complete") else state
    assert states.submit(7, 9)[0] == after
    assert trial(states)["state"] == after
    assert states.submit(7, 9)[0] == after
    assert states.claim(7, 2, "w2").granted == (after == "waiting" and state != "waiting")


def test_a_smaller_budget_is_ignored(states: TrialStates) -> None:
    states.submit(7, 4)
    states.submit(7, 2)
    assert trial(states)["until"] == "4"


def test_budgets_are_compared_as_numbers(states: TrialStates) -> None:
    states.submit(7, 9)
    states.submit(7, 10)
    assert trial(states)["until"] == "10"


# ---- claim


def test_a_claim_tells_where_to_go_on_and_says_who_started(states: TrialStates) -> None:
    states.submit(7, 4)
    claim = states.claim(7, 1, "w1")
    assert (claim.granted, claim.epoch, claim.checkpoint, claim.until) == (True, 0, "", 4)
    (event,) = events(states)
    assert (event.kind, event.trial, event.attempt, event.worker) == ("started", 7, 1, "w1")


@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_only_the_next_attempt_of_a_waiting_trial_can_be_claimed(
    states: TrialStates, attempt: int
) -> None:
    begin(states)
    states.requeue(7, 1, Outcome.DRAIN, max_failures=3)
    before = everything(states)
    refused = states.claim(7, attempt, "w1")
    assert (refused.granted, refused.state) == (False, "waiting")
    assert everything(states) == before
    assert states.claim(7, 2, "w2").granted


@pytest.mark.parametrize("state", STATES[1:])
def test_a_trial_that_does_not_wait_cannot_be_claimed(states: TrialStates, state: str) -> None:
    bring_to(states, state)
    before = everything(states)
    for attempt in (1, 2):
        refused = states.claim(7, attempt, "w2")
        assert (refused.granted, refused.state) == (False, state)
    assert everything(states) == before


def test_an_unknown_trial_cannot_be_claimed(states: TrialStates) -> None:
    refused = states.claim(7, 1, "w1")
    assert (refused.granted, refused.state) == (False, "gone")
    assert everything(states) == {"trials": {}, "running": [], "events": []}


def test_a_claim_whose_answer_was_lost_can_be_repeated(states: TrialStates) -> None:
    """Clients send a command again when the connection breaks before its answer comes."""
    states.submit(7, 4)
    first = states.claim(7, 1, "w1")
    before = everything(states)
    assert states.claim(7, 1, "w1") == first
    after = everything(states)
    assert (after["trials"], after["events"]) == (before["trials"], before["events"])
    assert not states.claim(7, 1, "w2").granted


def test_of_many_workers_one_gets_the_trial(states: TrialStates) -> None:
    states.submit(7, 4)
    with ThreadPoolExecutor(16) as pool:
        claims = list(pool.map(lambda i: states.claim(7, 1, f"w{i}"), range(32)))
    assert sum(claim.granted for claim in claims) == 1


# ---- report


def test_a_report_moves_the_epoch_and_tells_the_master(states: TrialStates) -> None:
    begin(states)
    metrics = {"acc": 0.1, "loss": math.inf, "small": 5e-324}
    assert do(states, report(7, 1, 1, metrics, "file")) == ""
    assert (trial(states)["epoch"], trial(states)["checkpoint"]) == ("1", "file")
    event = events(states)[-1]
    assert (event.kind, event.epoch, event.checkpoint) == ("report", 1, "file")
    assert event.metrics == metrics


def test_a_reported_nan_arrives_as_nan(states: TrialStates) -> None:
    begin(states)
    do(states, report(7, 1, 1, {"acc": math.nan}, ""))
    assert math.isnan(events(states)[-1].metrics["acc"])


def test_an_epoch_is_reported_once_whoever_repeats_it(states: TrialStates) -> None:
    begin(states, until=20)
    train(states, 10)
    before = everything(states)
    for epoch in (10, 9):
        assert do(states, report(7, 1, epoch, {"acc": 0.9}, "again")) == ""
    after = everything(states)
    assert (after["trials"], after["events"]) == (before["trials"], before["events"])


def test_an_attempt_ends_when_redis_has_lost_an_epoch_of_it(states: TrialStates) -> None:
    begin(states)
    train(states, 1)
    before = everything(states)
    assert do(states, report(7, 1, 3, {"acc": 0.9}, "three")) == StopReason.FENCED
    assert everything(states) == before


def test_reports_and_beats_renew_the_lease(states: TrialStates) -> None:
    begin(states)
    renewals: list[Callable[[], object]] = [
        lambda: do(states, report(7, 1, 1, {}, "")),
        lambda: states.renew(7, 1),
    ]
    for renew in renewals:
        let_lease_run_out(states)
        assert states.expired() == [(7, 1)]
        renew()
        assert states.expired() == []


# ---- fences


FENCED: dict[str, Callable[[TrialStates], object]] = {
    "report": lambda states: do(states, report(7, 1, 3, {"acc": 1.0}, "zombie")),
    "renew": lambda states: states.renew(7, 1),
    "finish": lambda states: do(states, finish(7, 1, "complete")),
    "finish killed": lambda states: do(states, finish(7, 1, "killed", "because")),
    "finish failed": lambda states: do(states, finish(7, 1, "failed", "because")),
    "requeue crash": lambda states: states.requeue(7, 1, Outcome.CRASH, max_failures=1),
    "requeue drain": lambda states: states.requeue(7, 1, Outcome.DRAIN, max_failures=1),
}


@pytest.mark.parametrize("word", FENCED)
def test_a_zombie_changes_nothing_while_the_next_attempt_runs(
    states: TrialStates, word: str
) -> None:
    begin(states)
    do(states, report(7, 1, 1, {"acc": 0.5}, "file"))
    states.requeue(7, 1, Outcome.LOST, max_failures=3)
    assert states.claim(7, 2, "w2").granted
    before = everything(states)
    assert FENCED[word](states) in (StopReason.FENCED, "fenced")
    assert everything(states) == before


@pytest.mark.parametrize("state", [state for state in STATES if state != "running"])
@pytest.mark.parametrize("word", FENCED)
def test_a_zombie_changes_nothing_once_its_trial_does_not_run(
    states: TrialStates, word: str, state: str
) -> None:
    bring_to(states, state)
    before = everything(states)
    assert FENCED[word](states) in (StopReason.FENCED, "fenced")
    assert everything(states) == before


@pytest.mark.parametrize("word", FENCED)
def test_nothing_can_be_done_to_an_unknown_trial(states: TrialStates, word: str) -> None:
    assert FENCED[word](states) in (StopReason.FENCED, "fenced")
    assert everything(states) == {"trials": {}, "running": [], "events": []}


# ---- finish


@pytest.mark.parametrize("state", ["complete", "paused", "killed", "failed"])
def test_an_end_is_told_with_its_reason_and_frees_the_lease(
    states: TrialStates, state: str
) -> None:
    begin(states)
    train(states, 4)
    assert do(states, finish(7, 1, state, "why")) == state
    assert trial(states)["state"] == state
    assert lease(states) is None
    event = events(states)[-1]
    assert (event.kind, event.attempt, event.reason) == (state, 1, "why")


@pytest.mark.parametrize("state", ["complete", "paused"])
def test_a_trial_whose_budget_grew_meanwhile_waits_again(states: TrialStates, state: str) -> None:
    begin(states, until=2)
    train(states, 2)
    states.submit(7, 4)
    assert do(states, finish(7, 1, state)) == "waiting"
    event = events(states)[-1]
    assert (event.kind, event.why) == ("waiting", "")
    assert states.claim(7, 2, "w2").until == 4


def test_a_failed_trial_stays_failed_though_its_budget_grew(states: TrialStates) -> None:
    begin(states, until=2)
    states.submit(7, 4)
    assert do(states, finish(7, 1, "failed", "a bug")) == "failed"


# ---- kill and hold


@pytest.mark.parametrize("state", ["waiting", "paused"])
def test_a_kill_ends_a_trial_that_does_not_run_at_once(states: TrialStates, state: str) -> None:
    bring_to(states, state)
    assert states.signal(7, StopReason.KILL, "by hand")[0] == state
    assert trial(states)["state"] == "killed"
    event = events(states)[-1]
    assert (event.kind, event.reason) == ("killed", "by hand")
    assert not states.claim(7, 1 if state == "waiting" else 2, "w1").granted


def test_a_running_trial_hears_of_its_kill_when_it_next_speaks(states: TrialStates) -> None:
    begin(states)
    assert states.signal(7, StopReason.KILL, "too poor") == ("running", "w1", 1)
    assert kinds(states) == ["started"]
    assert states.renew(7, 1) is StopReason.KILL
    assert do(states, report(7, 1, 1, {}, "")) == StopReason.KILL
    assert do(states, finish(7, 1, "killed")) == "killed"
    assert events(states)[-1].reason == "too poor"


def test_a_running_trial_hears_of_a_hold_when_it_next_speaks(states: TrialStates) -> None:
    begin(states)
    states.signal(7, StopReason.HOLD, "")
    assert states.renew(7, 1) is StopReason.HOLD
    assert do(states, report(7, 1, 1, {}, "")) == StopReason.HOLD
    assert states.requeue(7, 1, Outcome.HOLD, max_failures=1) == "waiting"
    assert states.claim(7, 2, "w1").granted
    assert states.renew(7, 2) is None


def test_a_kill_counts_more_than_a_hold(states: TrialStates) -> None:
    begin(states)
    states.signal(7, StopReason.HOLD, "")
    states.signal(7, StopReason.KILL, "by hand")
    assert states.renew(7, 1) is StopReason.KILL
    assert states.requeue(7, 1, Outcome.HOLD, max_failures=3) == "killed"


@pytest.mark.parametrize("kind", [StopReason.KILL, StopReason.HOLD])
def test_the_first_kill_stands_whatever_comes_after_it(
    states: TrialStates, kind: StopReason
) -> None:
    begin(states)
    states.signal(7, StopReason.KILL, "too poor")
    before = everything(states)
    states.signal(7, kind, "by hand")
    assert everything(states) == before
    assert do(states, finish(7, 1, "killed")) == "killed"
    assert events(states)[-1].reason == "too poor"


@pytest.mark.parametrize("kind", [StopReason.KILL, StopReason.HOLD])
@pytest.mark.parametrize("state", ["complete", "killed", "failed"])
def test_an_ended_trial_is_left_as_it_is(states: TrialStates, state: str, kind: StopReason) -> None:
    bring_to(states, state)
    before = everything(states)
    assert states.signal(7, kind, "too late")[0] == state
    assert everything(states) == before


@pytest.mark.parametrize("state", ["waiting", "paused"])
def test_a_hold_leaves_what_does_not_run_alone(states: TrialStates, state: str) -> None:
    bring_to(states, state)
    before = everything(states)
    assert states.signal(7, StopReason.HOLD, "")[0] == state
    assert everything(states) == before


def test_a_signal_to_an_unknown_trial_makes_none(states: TrialStates) -> None:
    assert states.signal(7, StopReason.KILL, "by hand") == ("gone", "", 0)
    assert everything(states) == {"trials": {}, "running": [], "events": []}


def test_a_kill_that_comes_with_the_last_epoch_of_a_rung_is_not_lost(states: TrialStates) -> None:
    begin(states)
    train(states, 4)
    states.signal(7, StopReason.KILL, "by hand")
    assert do(states, finish(7, 1, "paused")) == "killed"
    assert events(states)[-1].reason == "by hand"


def test_a_kill_is_not_lost_when_the_budget_grew_too(states: TrialStates) -> None:
    begin(states)
    train(states, 4)
    states.submit(7, 9)
    states.signal(7, StopReason.KILL, "by hand")
    assert do(states, finish(7, 1, "complete")) == "killed"


def test_a_trial_that_completes_before_it_hears_of_its_kill_is_complete(
    states: TrialStates,
) -> None:
    begin(states)
    train(states, 4)
    states.signal(7, StopReason.KILL, "by hand")
    assert do(states, finish(7, 1, "complete")) == "complete"
    assert events(states)[-1].reason == ""


# ---- requeue


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        (Outcome.CRASH, True),
        (Outcome.LOST, True),
        (Outcome.DRAIN, False),
        (Outcome.HOLD, False),
        (Outcome.YIELD, False),
    ],
)
def test_only_crashes_and_losses_count_as_failures(
    states: TrialStates, outcome: Outcome, counts: bool
) -> None:
    begin(states)
    assert states.requeue(7, 1, outcome, max_failures=3, reason="SIGSEGV") == "waiting"
    assert trial(states)["failures"] == str(int(counts))
    assert lease(states) is None
    event = events(states)[-1]
    assert (event.kind, event.attempt) == ("waiting", 1)
    assert (event.why, event.reason) == (outcome, "SIGSEGV")


def test_a_trial_fails_for_good_with_its_last_failure(states: TrialStates) -> None:
    states.submit(7, 4)
    for attempt, after in ((1, "waiting"), (2, "waiting"), (3, "failed")):
        assert states.claim(7, attempt, "w1").granted
        reason = str(attempt)
        state = states.requeue(7, attempt, Outcome.CRASH, max_failures=3, reason=reason)
        assert state == after
    assert (events(states)[-1].kind, events(states)[-1].reason) == ("failed", "3")
    assert not states.claim(7, 4, "w1").granted


def test_drains_never_make_a_trial_fail(states: TrialStates) -> None:
    states.submit(7, 4, failures=3)
    for attempt in (1, 2, 3):
        assert states.claim(7, attempt, "w1").granted
        assert states.requeue(7, attempt, Outcome.DRAIN, max_failures=3) == "waiting"


@pytest.mark.parametrize("outcome", [Outcome.CRASH, Outcome.LOST, Outcome.DRAIN, Outcome.HOLD])
def test_a_trial_that_was_to_be_killed_is_not_tried_again(
    states: TrialStates, outcome: Outcome
) -> None:
    begin(states)
    states.signal(7, StopReason.KILL, "too poor")
    assert states.requeue(7, 1, outcome, max_failures=3, reason="SIGKILL") == "killed"
    assert (events(states)[-1].kind, events(states)[-1].reason) == ("killed", "too poor")


def test_the_next_attempt_goes_on_from_the_last_report(states: TrialStates) -> None:
    begin(states)
    train(states, 2)
    states.requeue(7, 1, Outcome.LOST, max_failures=3)
    claim = states.claim(7, 2, "w2")
    assert (claim.epoch, claim.checkpoint) == (2, "file2")


# ---- leases


def test_a_lease_is_measured_by_the_clock_of_redis(
    states: TrialStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's clock is a century ahead
    states.submit(7, 4)
    before = redis_time(states.connection)
    states.claim(7, 1, "w1")
    after = redis_time(states.connection)
    granted = lease(states)
    assert granted is not None
    assert before - 0.001 <= granted / 1000 - LEASE <= after + 0.001
    assert states.expired() == []


def test_every_trial_whose_lease_ran_out_is_found_with_its_attempt(states: TrialStates) -> None:
    for number in range(4):
        begin(states, number=number)
    states.requeue(2, 1, Outcome.DRAIN, max_failures=3)
    states.claim(2, 2, "w2")
    for number in (0, 2):
        let_lease_run_out(states, number)
    assert sorted(states.expired()) == [(0, 1), (2, 2)]


def test_after_an_outage_every_lease_begins_anew(states: TrialStates) -> None:
    for number in range(3):
        begin(states, number=number)
        let_lease_run_out(states, number)
    states.extend_leases()
    assert states.expired() == []
    states.requeue(1, 1, Outcome.DRAIN, max_failures=3)
    states.extend_leases()
    assert lease(states, 1) is None


# ---- the scripts as such


def whole_life(states: TrialStates) -> list[str]:
    """Let a trial live through every script; return what the master hears."""
    forget = states.connection.script_flush
    steps: Sequence[Callable[[], object]] = [
        lambda: states.submit(7, 4),
        lambda: states.claim(7, 1, "w1"),
        lambda: states.renew(7, 1),
        lambda: do(states, report(7, 1, 1, {"acc": 0.5}, "one"), report(7, 1, 2, {}, "two")),
        states.extend_leases,
        states.expired,
        lambda: states.requeue(7, 1, Outcome.LOST, max_failures=3),
        lambda: states.claim(7, 2, "w2"),
        lambda: states.signal(7, StopReason.KILL, "too poor"),
        lambda: do(states, finish(7, 2, "killed")),
    ]
    for step in steps:
        forget()
        step()
    return kinds(states)


LIFE = ["started", "report", "report", "waiting", "started", "killed"]


def test_a_server_that_forgot_the_scripts_is_taught_again(states: TrialStates) -> None:
    assert whole_life(states) == LIFE


@pytest.mark.parametrize("name", ODD_NAMES)
def test_studies_of_any_name_live_side_by_side(connect_redis: ConnectRedis, name: str) -> None:
    connection = connect_redis()
    other = TrialStates(connection, "digits")
    begin(other)
    before = everything(other)
    assert whole_life(TrialStates(connection, name)) == LIFE
    assert everything(other) == before


def test_many_steps_take_one_round_trip_and_keep_their_order(states: TrialStates) -> None:
    begin(states, until=300)
    steps = [report(7, 1, epoch, {"acc": epoch / 300}, "") for epoch in range(1, 301)]
    answers = states.run([*steps, finish(7, 1, "complete")])
    assert answers == [""] * 300 + ["complete"]
    assert [event.epoch for event in events(states)[1:-1]] == list(range(1, 301))


@pytest.mark.parametrize(("early", "state"), [(False, "waiting"), (True, "complete")])
def test_a_trial_that_ends_before_its_budget_waits_unless_it_says_that_it_stopped_early(
    states: TrialStates, early: bool, state: str
) -> None:
    states.submit(7, 10)
    states.claim(7, 1, "w")
    do(states, report(7, 1, 1, {"acc": 0.5}, ""))
    assert do(states, finish(7, 1, "complete", "no better", early=early)) == state
    assert trial(states)["state"] == state
    assert (events(states)[-1].kind, events(states)[-1].reason) == (state, "no better")
