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
def redis_study(redis_url: str) -> RedisStudy:
    made = RedisStudy(redis_url, INFO)
    made.take()
    return made


@pytest.fixture
def redis(redis_url: str) -> Redis:
    return connect(redis_url)


def record(number: int, **known: Any) -> TrialRecord:
    fields = {"stage": "coarse", "params": {"lr": 0.1}, "seed": 5, "epochs": 9, "until": 4}
    return TrialRecord(number, **{**fields, **known})


def claim(redis_study: RedisStudy, number: int, attempt: int = 1) -> None:
    assert redis_study.states.claim(number, attempt, "w1").granted


def trained(number: int) -> list[Step]:
    """Return the steps of an attempt that reports its four epochs."""
    return [report(number, 1, epoch, {}, f"file{epoch}") for epoch in range(1, 5)]


def lose(redis_study: RedisStudy, number: int) -> None:
    redis_study.connection.zadd(redis_study.states.keys.running, {str(number): 1}, xx=True)


def jobs(redis_study: RedisStudy) -> list[str]:
    return redis_study.queue.waiting()


def spec(redis_study: RedisStudy, job: str) -> tuple[TrialSpec, int]:
    """Return what a worker gets of a job."""
    rq = redis_study.queue.rq
    text, attempt, *_ = Job.fetch(job, connection=rq.connection, serializer=rq.serializer).args
    return TrialSpec.from_json(text), attempt


# ---- the study


def test_a_master_publishes_its_study(redis_study: RedisStudy, redis: Redis) -> None:
    assert fetch(redis, "digits") == INFO
    assert redis_study.published()
    redis.flushdb()
    assert not redis_study.published()


def test_the_claim_is_renewed_and_given_back(redis_study: RedisStudy, redis: Redis) -> None:
    key = Keys("digits").master
    redis.pexpire(key, 1000)
    redis_study.renew()
    assert redis.pttl(key) > 10_000
    redis_study.release()
    assert not redis.exists(key)


def test_a_claim_that_ran_out_is_taken_again(redis_study: RedisStudy, redis: Redis) -> None:
    redis.delete(Keys("digits").master)
    redis_study.renew()
    assert redis.get(Keys("digits").master) == redis_study.token


def test_a_master_that_lost_its_claim_gives_nothing_back(
    redis_study: RedisStudy, redis_url: str, redis: Redis
) -> None:
    other = RedisStudy(redis_url, INFO)
    with pytest.raises(ScattershotError, match="take over with --take-over"):
        other.take()
    other.take(by_force=True)
    with pytest.raises(ScattershotError, match="another master has taken over"):
        redis_study.renew()
    redis_study.release()
    assert redis.get(Keys("digits").master) == other.token


def test_the_claim_of_a_killed_master_is_waited_out(
    redis_study: RedisStudy, redis_url: str, redis: Redis
) -> None:
    redis.pexpire(Keys("digits").master, 1200)
    other = RedisStudy(redis_url, INFO)
    notes: list[str] = []
    other.wait_for_claim(notes.append)
    other.take()
    assert notes == ["the last master's claim on the study runs out in 1 s"]


def test_a_master_that_lives_is_not_waited_for(
    redis_study: RedisStudy, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            redis_study.renew()

    monkeypatch.setattr(time, "sleep", sleep)
    redis_study.connection.pexpire(Keys("digits").master, 14_000)
    RedisStudy(redis_url, INFO).wait_for_claim()
    assert len(slept) == 3


def test_where_no_master_was_nothing_is_waited_for(redis_url: str) -> None:
    notes: list[str] = []
    RedisStudy(redis_url, INFO).wait_for_claim(notes.append)
    assert not notes


def test_a_master_that_is_refused_publishes_nothing(
    redis_study: RedisStudy, redis_url: str, redis: Redis
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
    redis_study: RedisStudy, redis: Redis, redis_url: str, cursor: str, forgotten: bool
) -> None:
    redis_study.send([record(number) for number in range(3)])
    claim(redis_study, 1)
    TrialStates(redis, "digits-2").submit(0, 4)  # another study's
    assert not redis_study.forget_beyond("")  # nothing was trimmed yet
    redis_study.trim("100-10")
    assert redis_study.forget_beyond(cursor) == forgotten
    assert redis.exists(*(Keys("digits").trial(number) for number in range(3))) == 3 - 3 * forgotten
    assert redis.exists(Keys("digits").running, Keys("digits").events) == 2 - 2 * forgotten
    assert redis.exists(Keys("digits-2").trial(0))
    assert redis_study.published()
    assert redis.get(Keys("digits").master) == redis_study.token
    assert redis_study.forget_beyond(cursor) is False or not forgotten


# ---- trials


def test_trials_are_sent_with_all_that_a_worker_needs(redis_study: RedisStudy) -> None:
    redis_study.send([record(0), record(1, attempts=2, checkpoint="file", failures=1)])
    assert jobs(redis_study) == [job_id("digits", 0, 1), job_id("digits", 1, 3)]
    sent, attempt = spec(redis_study, jobs(redis_study)[1])
    assert attempt == 3
    assert sent == TrialSpec("digits", "u1", 1, "coarse", {"lr": 0.1}, 5, 9)
    assert redis_study.states.claim(1, 3, "w1").until == 4


def test_a_trial_that_is_sent_twice_at_once_is_put_on_the_queue_once(
    redis_study: RedisStudy,
) -> None:
    redis_study.send([record(0), record(1), record(0)])
    assert jobs(redis_study) == [job_id("digits", 0, 1), job_id("digits", 1, 1)]


def test_many_trials_are_sent_in_portions_and_in_their_order(
    redis_study: RedisStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)
    redis_study.send([record(number, attempts=number % 2) for number in range(10)])
    assert jobs(redis_study) == [job_id("digits", one, one % 2 + 1) for one in range(10)]


def test_nothing_to_send_is_no_round_trip(redis_study: RedisStudy) -> None:
    redis_study.connection.close()
    redis_study.states = None  # type: ignore[assignment]
    redis_study.send([])


def test_only_trials_that_wait_are_put_on_the_queue(redis_study: RedisStudy) -> None:
    trials = [record(number) for number in range(6)]
    redis_study.send(trials)
    for number, end in enumerate(("paused", "complete", "killed", "failed")):
        claim(redis_study, number)
        redis_study.states.run([*trained(number), finish(number, 1, end)])
    claim(redis_study, 4)
    redis_study.queue.remove(jobs(redis_study))
    redis_study.send(trials)
    assert jobs(redis_study) == [job_id("digits", 5, 1)]


def test_a_larger_budget_wakes_a_paused_trial_for_its_next_attempt(redis_study: RedisStudy) -> None:
    redis_study.send([record(0)])
    claim(redis_study, 0)
    redis_study.states.run([*trained(0), finish(0, 1, "paused")])
    redis_study.send([record(0, until=9)])
    assert jobs(redis_study)[-1] == job_id("digits", 0, 2)
    again = redis_study.states.claim(0, 2, "w2")
    assert (again.epoch, again.checkpoint, again.until) == (4, "file4", 9)


def test_what_is_on_the_queue_is_not_put_there_again(redis_study: RedisStudy) -> None:
    trials = [record(number) for number in range(3)]
    redis_study.send(trials)
    redis_study.send(trials, queued=[*jobs(redis_study)[:2]])
    assert jobs(redis_study).count(job_id("digits", 0, 1)) == 1
    assert jobs(redis_study).count(job_id("digits", 2, 1)) == 2  # harmless: it is claimed once


def test_a_lost_trial_goes_to_the_front_of_the_queue(redis_study: RedisStudy) -> None:
    trials = {number: record(number, worker="w1") for number in range(3)}
    redis_study.send([*trials.values()])
    claim(redis_study, 2)
    assert redis_study.reap(trials, max_failures=3) == []
    lose(redis_study, 2)
    assert redis_study.reap(trials, max_failures=3) == [2]
    waiting = [job_id("digits", 2, 2), job_id("digits", 0, 1), job_id("digits", 1, 1)]
    assert jobs(redis_study) == waiting
    assert redis_study.reap(trials, max_failures=3) == []
    (event,) = [one for one in redis_study.stream.read("", block_ms=None) if one.why]
    assert (event.kind, event.why, event.reason) == ("waiting", "lost", "its worker w1 was lost")


def test_a_trial_lost_too_often_fails(redis_study: RedisStudy) -> None:
    trials = {0: record(0, failures=1)}
    redis_study.send([*trials.values()])
    claim(redis_study, 0)
    redis_study.queue.remove(jobs(redis_study))
    lose(redis_study, 0)
    assert redis_study.reap(trials, max_failures=2) == [0]
    assert jobs(redis_study) == []
    assert redis_study.stream.read("", block_ms=None)[-1].kind == "failed"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOST_AFTER", -1.0)


def test_what_was_just_sent_is_not_looked_for(redis_study: RedisStudy) -> None:
    redis_study.send([record(0)])
    redis_study.queue.remove(jobs(redis_study))
    redis_study.find_lost([record(0)])
    assert jobs(redis_study) == []


@pytest.mark.usefixtures("hurried")
def test_trials_that_dropped_off_the_queue_are_put_back(redis_study: RedisStudy) -> None:
    trials = [record(number) for number in range(3)]
    redis_study.send(trials)
    redis_study.queue.remove([job_id("digits", 1, 1)])
    redis_study.find_lost(trials)
    assert jobs(redis_study) == [job_id("digits", number, 1) for number in (0, 2, 1)]
    redis_study.find_lost(trials)
    assert len(jobs(redis_study)) == 3
    redis_study.find_lost([])


@pytest.mark.usefixtures("hurried")
def test_trials_that_redis_has_forgotten_are_made_known_again(
    redis_study: RedisStudy, redis: Redis
) -> None:
    redis.flushdb()
    redis_study.find_lost([record(0, attempts=1)])
    assert jobs(redis_study) == [job_id("digits", 0, 2)]
    claim(redis_study, 0, attempt=2)


@pytest.mark.usefixtures("hurried")
def test_a_job_that_a_living_worker_has_taken_is_not_lost(redis_study: RedisStudy) -> None:
    redis_study.send([record(0)])
    (job,) = jobs(redis_study)
    rq = redis_study.queue.rq
    rq.connection.lpop(rq.key)
    registry = rq.started_job_registry.key
    rq.connection.zadd(registry, {f"{job}:execution": 4e9})
    redis_study.find_lost([record(0)])
    assert jobs(redis_study) == []
    rq.connection.zadd(registry, {f"{job}:execution": 1})  # its worker gives no sign of life
    redis_study.find_lost([record(0)])
    assert jobs(redis_study) == [job]


@pytest.mark.parametrize("running", [False, True])
def test_nobody_trains_what_has_ended_though_redis_has_lost_its_end(
    redis_study: RedisStudy, running: bool
) -> None:
    trials = {number: record(number) for number in range(3)}
    redis_study.send([*trials.values()])
    if running:
        claim(redis_study, 0)
        claim(redis_study, 1)
    trials[0].state = trials[2].state = "killed"
    redis_study.settle(trials, ["someone-s-job", *jobs(redis_study)])
    attempt = 2 if running else 1
    assert not redis_study.states.claim(0, attempt, "w2").granted
    assert not redis_study.states.claim(2, 1, "w2").granted
    assert redis_study.states.run([report(0, 1, 1, {}, "f")]) == [StopReason.FENCED]
    assert redis_study.states.running() == ([1] if running else [])
    assert redis_study.states.claim(1, 1, "w1").granted


def test_the_queue_is_cleared_of_this_study_alone(redis_study: RedisStudy, redis_url: str) -> None:
    other = RedisStudy(redis_url, StudyInfo("other", "u2", "digits", "val_accuracy", "maximize"))
    trials = [record(0), record(1, attempts=2)]
    redis_study.send(trials)
    other.send(trials)
    redis_study.clear_queue(trials)
    assert jobs(redis_study) == [job_id("other", 0, 1), job_id("other", 1, 3)]


# ---- kills and holds


@pytest.fixture
def messages(redis: Redis) -> Iterator[Callable[[], list[dict[str, Any]]]]:
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
    redis_study: RedisStudy,
    redis: Redis,
    messages: Callable[[], list[dict[str, Any]]],
    kind: StopReason,
) -> None:
    redis_study.send([record(0)])
    claim(redis_study, 0)
    redis_study.stop([record(0, kill_asked="too poor")], kind, None)
    assert redis.hmget(Keys("digits").trial(0), "signal", "reason") == [kind, "too poor"]
    (message,) = messages()
    assert message["command"] == "scattershot-stop"
    assert (message["stop"], message["attempt"]) == (kind, ["digits", 0, 1])


def test_a_waiting_trial_is_killed_at_once_and_not_held(
    redis_study: RedisStudy, messages: Callable[[], list[dict[str, Any]]]
) -> None:
    redis_study.send([record(0), record(1)])
    redis_study.stop([record(0)], StopReason.HOLD, "")
    redis_study.stop([record(1)], StopReason.KILL, "by hand")
    assert not redis_study.states.claim(1, 1, "w1").granted
    assert redis_study.states.claim(0, 1, "w1").granted
    killed, _ = redis_study.stream.read("", block_ms=None)
    assert (killed.kind, killed.trial, killed.reason) == ("killed", 1, "by hand")
    assert messages() == []


def test_stopping_tells_which_state_a_trial_was_in(redis_study: RedisStudy) -> None:
    redis_study.send([record(0), record(1)])
    claim(redis_study, 1)
    asked = [
        stop_trial(redis_study.states, number, StopReason.KILL, "so") for number in (0, 0, 1, 7)
    ]
    assert asked == ["waiting", "killed", "running", "gone"]
