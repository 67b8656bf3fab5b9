import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from redis import Redis
from rq.job import Job

from scattershot_common.bus.connection import connect
from scattershot_common.bus.keys import Keys, job_id
from scattershot_common.bus.outcome import StopReason
from scattershot_common.bus.study_info import StudyInfo, fetch
from scattershot_common.bus.trial_spec import TrialSpec
from scattershot_common.bus.trial_state import Step, TrialStates, finish, report
from scattershot_common.errors import ScattershotError
from scattershot_master.search import redis_study as module
from scattershot_master.search.redis_study import RedisStudy, stop_trial
from scattershot_master.state.study_state import TrialRecord
from support.waiting import eventually

INFO = StudyInfo("digits", "u1", "digits", "val_accuracy", "maximize")


@pytest.fixture
def dispatch(redis_url: str) -> RedisStudy:
    made = RedisStudy(redis_url, INFO)
    made.take()
    return made


@pytest.fixture
def redis(redis_url: str) -> Redis:
    return connect(redis_url)


def record(number: int, **known: Any) -> TrialRecord:
    fields = {"stage": "coarse", "params": {"lr": 0.1}, "seed": 5, "epochs": 9, "until": 4}
    return TrialRecord(number, **{**fields, **known})


def claim(dispatch: RedisStudy, number: int, attempt: int = 1) -> None:
    assert dispatch.states.claim(number, attempt, "w1").granted


def trained(number: int) -> list[Step]:
    """Return the steps of an attempt that reports its four epochs."""
    return [report(number, 1, epoch, {}, f"file{epoch}") for epoch in range(1, 5)]


def lose(dispatch: RedisStudy, number: int) -> None:
    dispatch.connection.zadd(dispatch.states.keys.running, {str(number): 1}, xx=True)


def jobs(dispatch: RedisStudy) -> list[str]:
    return dispatch.queue.waiting()


def spec(dispatch: RedisStudy, job: str) -> tuple[TrialSpec, int]:
    """Return what a worker gets of a job."""
    rq = dispatch.queue.rq
    text, attempt, *_ = Job.fetch(job, connection=rq.connection, serializer=rq.serializer).args
    return TrialSpec.from_json(text), attempt


# ---- the study


def test_a_master_publishes_its_study(dispatch: RedisStudy, redis: Redis) -> None:
    assert fetch(redis, "digits") == INFO
    assert dispatch.published()
    redis.flushdb()
    assert not dispatch.published()


def test_the_claim_is_renewed_and_given_back(dispatch: RedisStudy, redis: Redis) -> None:
    key = Keys("digits").master
    redis.pexpire(key, 1000)
    dispatch.renew()
    assert redis.pttl(key) > 10_000
    dispatch.release()
    assert not redis.exists(key)


def test_a_claim_that_ran_out_is_taken_again(dispatch: RedisStudy, redis: Redis) -> None:
    redis.delete(Keys("digits").master)
    dispatch.renew()
    assert redis.get(Keys("digits").master) == dispatch.token


def test_a_master_that_lost_its_claim_gives_nothing_back(
    dispatch: RedisStudy, redis_url: str, redis: Redis
) -> None:
    other = RedisStudy(redis_url, INFO)
    with pytest.raises(ScattershotError, match="take over with --take-over"):
        other.take()
    other.take(by_force=True)
    with pytest.raises(ScattershotError, match="another master has taken over"):
        dispatch.renew()
    dispatch.release()
    assert redis.get(Keys("digits").master) == other.token


def test_the_claim_of_a_killed_master_is_waited_out(
    dispatch: RedisStudy, redis_url: str, redis: Redis
) -> None:
    redis.pexpire(Keys("digits").master, 1200)
    other = RedisStudy(redis_url, INFO)
    notes: list[str] = []
    other.outwait(notes.append)
    other.take()
    assert notes == ["the last master's claim on the study runs out in 1 s"]


def test_a_master_that_lives_is_not_waited_for(
    dispatch: RedisStudy, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            dispatch.renew()

    monkeypatch.setattr(time, "sleep", sleep)
    dispatch.connection.pexpire(Keys("digits").master, 14_000)
    RedisStudy(redis_url, INFO).outwait()
    assert len(slept) == 3


def test_where_no_master_was_nothing_is_waited_for(redis_url: str) -> None:
    notes: list[str] = []
    RedisStudy(redis_url, INFO).outwait(notes.append)
    assert not notes


def test_a_master_that_is_refused_publishes_nothing(
    dispatch: RedisStudy, redis_url: str, redis: Redis
) -> None:
    elsewhere = StudyInfo("digits", "u1", "digits", "val_accuracy", "maximize", data="/elsewhere")
    with pytest.raises(ScattershotError, match="another master"):
        RedisStudy(redis_url, elsewhere).take()
    assert fetch(redis, "digits") == INFO


@pytest.mark.parametrize(
    ("cursor", "forgotten"),
    [("", True), ("99-9", True), ("100-2", True), ("100-10", False), ("101-0", False)],
)
def test_redis_forgets_trials_whose_events_the_ledger_lacks(
    dispatch: RedisStudy, redis: Redis, redis_url: str, cursor: str, forgotten: bool
) -> None:
    dispatch.send([record(number) for number in range(3)])
    claim(dispatch, 1)
    TrialStates(redis, "digits-2").submit(0, 4)  # another study's
    assert not dispatch.forget_beyond("")  # nothing was trimmed yet
    dispatch.trim("100-10")
    assert dispatch.forget_beyond(cursor) == forgotten
    assert redis.exists(*(Keys("digits").trial(number) for number in range(3))) == 3 - 3 * forgotten
    assert redis.exists(Keys("digits").running, Keys("digits").events) == 2 - 2 * forgotten
    assert redis.exists(Keys("digits-2").trial(0))
    assert dispatch.published()
    assert redis.get(Keys("digits").master) == dispatch.token
    assert dispatch.forget_beyond(cursor) is False or not forgotten


# ---- trials


def test_trials_are_sent_with_all_that_a_worker_needs(dispatch: RedisStudy) -> None:
    dispatch.send([record(0), record(1, attempts=2, checkpoint="file", failures=1)])
    assert jobs(dispatch) == [job_id("digits", 0, 1), job_id("digits", 1, 3)]
    sent, attempt = spec(dispatch, jobs(dispatch)[1])
    assert attempt == 3
    assert sent == TrialSpec("digits", "u1", 1, "coarse", {"lr": 0.1}, 5, 9)
    assert dispatch.states.claim(1, 3, "w1").until == 4


def test_a_trial_that_is_sent_twice_at_once_is_put_on_the_queue_once(dispatch: RedisStudy) -> None:
    dispatch.send([record(0), record(1), record(0)])
    assert jobs(dispatch) == [job_id("digits", 0, 1), job_id("digits", 1, 1)]


def test_many_trials_are_sent_in_portions_and_in_their_order(
    dispatch: RedisStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    dispatch.send([record(number, attempts=number % 2) for number in range(10)])
    assert jobs(dispatch) == [job_id("digits", one, one % 2 + 1) for one in range(10)]


def test_nothing_to_send_is_no_round_trip(dispatch: RedisStudy) -> None:
    dispatch.connection.close()
    dispatch.states = None  # type: ignore[assignment]
    dispatch.send([])


def test_only_trials_that_wait_are_put_on_the_queue(dispatch: RedisStudy) -> None:
    trials = [record(number) for number in range(6)]
    dispatch.send(trials)
    for number, end in enumerate(("paused", "complete", "killed", "failed")):
        claim(dispatch, number)
        dispatch.states.run([*trained(number), finish(number, 1, end)])
    claim(dispatch, 4)
    dispatch.queue.remove(jobs(dispatch))
    dispatch.send(trials)
    assert jobs(dispatch) == [job_id("digits", 5, 1)]


def test_a_larger_budget_wakes_a_paused_trial_for_its_next_attempt(dispatch: RedisStudy) -> None:
    dispatch.send([record(0)])
    claim(dispatch, 0)
    dispatch.states.run([*trained(0), finish(0, 1, "paused")])
    dispatch.send([record(0, until=9)])
    assert jobs(dispatch)[-1] == job_id("digits", 0, 2)
    again = dispatch.states.claim(0, 2, "w2")
    assert (again.epoch, again.checkpoint, again.until) == (4, "file4", 9)


def test_what_is_on_the_queue_is_not_put_there_again(dispatch: RedisStudy) -> None:
    trials = [record(number) for number in range(3)]
    dispatch.send(trials)
    dispatch.send(trials, queued=[*jobs(dispatch)[:2]])
    assert jobs(dispatch).count(job_id("digits", 0, 1)) == 1
    assert jobs(dispatch).count(job_id("digits", 2, 1)) == 2  # harmless: it is claimed once


def test_a_lost_trial_goes_to_the_front_of_the_queue(dispatch: RedisStudy) -> None:
    trials = {number: record(number, worker="w1") for number in range(3)}
    dispatch.send([*trials.values()])
    claim(dispatch, 2)
    assert dispatch.reap(trials, max_failures=3) == []
    lose(dispatch, 2)
    assert dispatch.reap(trials, max_failures=3) == [2]
    waiting = [job_id("digits", 2, 2), job_id("digits", 0, 1), job_id("digits", 1, 1)]
    assert jobs(dispatch) == waiting
    assert dispatch.reap(trials, max_failures=3) == []
    (event,) = [one for one in dispatch.stream.read("", block_ms=None) if one.why]
    assert (event.kind, event.why, event.reason) == ("waiting", "lost", "its worker w1 was lost")


def test_a_trial_lost_too_often_fails(dispatch: RedisStudy) -> None:
    trials = {0: record(0, failures=1)}
    dispatch.send([*trials.values()])
    claim(dispatch, 0)
    dispatch.queue.remove(jobs(dispatch))
    lose(dispatch, 0)
    assert dispatch.reap(trials, max_failures=2) == [0]
    assert jobs(dispatch) == []
    assert dispatch.stream.read("", block_ms=None)[-1].kind == "failed"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOST_AFTER", -1.0)


def test_what_was_just_sent_is_not_looked_for(dispatch: RedisStudy) -> None:
    dispatch.send([record(0)])
    dispatch.queue.remove(jobs(dispatch))
    dispatch.find_lost([record(0)])
    assert jobs(dispatch) == []


@pytest.mark.usefixtures("hurried")
def test_trials_that_dropped_off_the_queue_are_put_back(dispatch: RedisStudy) -> None:
    trials = [record(number) for number in range(3)]
    dispatch.send(trials)
    dispatch.queue.remove([job_id("digits", 1, 1)])
    dispatch.find_lost(trials)
    assert jobs(dispatch) == [job_id("digits", number, 1) for number in (0, 2, 1)]
    dispatch.find_lost(trials)
    assert len(jobs(dispatch)) == 3
    dispatch.find_lost([])


@pytest.mark.usefixtures("hurried")
def test_trials_that_redis_has_forgotten_are_made_known_again(
    dispatch: RedisStudy, redis: Redis
) -> None:
    redis.flushdb()
    dispatch.find_lost([record(0, attempts=1)])
    assert jobs(dispatch) == [job_id("digits", 0, 2)]
    claim(dispatch, 0, attempt=2)


@pytest.mark.usefixtures("hurried")
def test_a_job_that_a_living_worker_has_taken_is_not_lost(dispatch: RedisStudy) -> None:
    dispatch.send([record(0)])
    (job,) = jobs(dispatch)
    rq = dispatch.queue.rq
    rq.connection.lpop(rq.key)
    registry = rq.started_job_registry.key
    rq.connection.zadd(registry, {f"{job}:execution": 4e9})
    dispatch.find_lost([record(0)])
    assert jobs(dispatch) == []
    rq.connection.zadd(registry, {f"{job}:execution": 1})  # its worker gives no sign of life
    dispatch.find_lost([record(0)])
    assert jobs(dispatch) == [job]


@pytest.mark.parametrize("running", [False, True])
def test_nobody_trains_what_has_ended_though_redis_has_lost_its_end(
    dispatch: RedisStudy, running: bool
) -> None:
    trials = {number: record(number) for number in range(3)}
    dispatch.send([*trials.values()])
    if running:
        claim(dispatch, 0)
        claim(dispatch, 1)
    trials[0].state = trials[2].state = "killed"
    dispatch.settle(trials, ["someone-s-job", *jobs(dispatch)])
    attempt = 2 if running else 1
    assert not dispatch.states.claim(0, attempt, "w2").granted
    assert not dispatch.states.claim(2, 1, "w2").granted
    assert dispatch.states.run([report(0, 1, 1, {}, "f")]) == [StopReason.FENCED]
    assert dispatch.states.running() == ([1] if running else [])
    assert dispatch.states.claim(1, 1, "w1").granted


def test_the_queue_is_cleared_of_this_study_alone(dispatch: RedisStudy, redis_url: str) -> None:
    other = RedisStudy(redis_url, StudyInfo("other", "u2", "digits", "val_accuracy", "maximize"))
    trials = [record(0), record(1, attempts=2)]
    dispatch.send(trials)
    other.send(trials)
    dispatch.clear_queue(trials)
    assert jobs(dispatch) == [job_id("other", 0, 1), job_id("other", 1, 3)]


# ---- kills and holds


@pytest.fixture
def heard(redis: Redis) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the worker w1 is told at once, over the channel that RQ's workers listen to."""
    with closing(redis.pubsub(ignore_subscribe_messages=True)) as channel:  # type: ignore
        channel.subscribe("rq:pubsub:w1")
        eventually(lambda: redis.pubsub_numsub("rq:pubsub:w1")[0][1])

        def listen() -> list[dict[str, Any]]:
            redis.publish("rq:pubsub:w1", "{}")
            found = []
            while data := json.loads(eventually(lambda: channel.get_message(timeout=1))["data"]):
                found.append(data)
            return found

        yield listen


@pytest.mark.parametrize("kind", [StopReason.KILL, StopReason.HOLD])
def test_a_running_trial_is_flagged_and_its_worker_told(
    dispatch: RedisStudy,
    redis: Redis,
    heard: Callable[[], list[dict[str, Any]]],
    kind: StopReason,
) -> None:
    dispatch.send([record(0)])
    claim(dispatch, 0)
    dispatch.stop([record(0, kill_asked="too poor")], kind, None)
    assert redis.hmget(Keys("digits").trial(0), "signal", "reason") == [kind, "too poor"]
    (message,) = heard()
    assert message["command"] == "scattershot-stop"
    assert (message["stop"], message["attempt"]) == (kind, ["digits", 0, 1])


def test_a_waiting_trial_is_killed_at_once_and_not_held(
    dispatch: RedisStudy, heard: Callable[[], list[dict[str, Any]]]
) -> None:
    dispatch.send([record(0), record(1)])
    dispatch.stop([record(0)], StopReason.HOLD, "")
    dispatch.stop([record(1)], StopReason.KILL, "by hand")
    assert not dispatch.states.claim(1, 1, "w1").granted
    assert dispatch.states.claim(0, 1, "w1").granted
    killed, _ = dispatch.stream.read("", block_ms=None)
    assert (killed.kind, killed.trial, killed.reason) == ("killed", 1, "by hand")
    assert heard() == []


def test_stopping_tells_which_state_a_trial_was_in(dispatch: RedisStudy) -> None:
    dispatch.send([record(0), record(1)])
    claim(dispatch, 1)
    asked = [stop_trial(dispatch.states, number, StopReason.KILL, "so") for number in (0, 0, 1, 7)]
    assert asked == ["waiting", "killed", "running", "gone"]
