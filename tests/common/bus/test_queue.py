"""The queue of trials as RQ has it, and what a job carries."""

import json
import math
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rq import Queue
from rq.job import Job

from scattershot_common.bus.keys import job_id
from scattershot_common.bus.queue import BOOKS, RUN_TRIAL, TrialQueue
from scattershot_common.bus.trial_spec import QueuedAttempt, TrialSpec
from scattershot_common.trial import Value
from support.redis_backends import ConnectRedis

PARAMS: dict[str, Value] = {"lr": 1e-3, "hidden": 64, "nesterov": True, "optimizer": "sgd \"'\\é"}
SPEC = TrialSpec("digits", "u1", 7, "coarse", PARAMS, 2**63 - 1, 4)


@pytest.fixture
def queue(connect_redis: ConnectRedis) -> TrialQueue:
    return TrialQueue(connect_redis(decode=False))


def taken(queue: TrialQueue) -> list[tuple[TrialSpec, int]]:
    """Return what workers would take, in this order."""
    attempts = []
    for job_name in queue.waiting():
        job = Job.fetch(job_name, connection=queue.rq.connection, serializer=queue.rq.serializer)
        assert job.func_name == RUN_TRIAL
        text, attempt, _ = job.args
        attempts.append((TrialSpec.from_json(text), attempt))
    return attempts


def spec(number: int, study: str = "digits") -> TrialSpec:
    return TrialSpec(study, "u1", number, "coarse", PARAMS, number, 4)


def test_attempts_are_taken_in_the_order_in_which_they_were_put(queue: TrialQueue) -> None:
    queue.put([(spec(number), 1) for number in range(3)])
    queue.put([(spec(3), 2)])
    assert taken(queue) == [(spec(0), 1), (spec(1), 1), (spec(2), 1), (spec(3), 2)]


def test_nothing_to_put_is_no_error(queue: TrialQueue) -> None:
    queue.put([])
    assert queue.waiting() == []


def test_a_further_attempt_comes_before_everything_that_waits(queue: TrialQueue) -> None:
    queue.put([(spec(0), 1), (spec(1), 1)])
    queue.put_front(spec(7), 2)
    assert taken(queue)[0] == (spec(7), 2)


def test_a_further_attempt_is_put_once_whoever_repeats_it(queue: TrialQueue) -> None:
    queue.put([(spec(0), 1)])
    queue.put_front(spec(7), 2)
    queue.put_front(spec(7), 2)
    assert taken(queue) == [(spec(7), 2), (spec(0), 1)]


def test_attempts_of_one_trial_are_different_jobs(queue: TrialQueue) -> None:
    queue.put_front(spec(7), 2)
    queue.put_front(spec(7), 3)
    assert taken(queue) == [(spec(7), 3), (spec(7), 2)]


@pytest.mark.parametrize("names", [("a.b", "a_b"), ("a-1", "a")])
def test_studies_with_similar_names_do_not_get_in_each_others_way(
    queue: TrialQueue, names: tuple[str, str]
) -> None:
    for name in names:
        queue.put_front(spec(7, name), 2)
    assert sorted(taken_spec.study for taken_spec, _ in taken(queue)) == sorted(names)


def test_removed_attempts_leave_nothing_behind(queue: TrialQueue) -> None:
    queue.put([(spec(number), 1) for number in range(3)])
    before = set(queue.rq.connection.keys("rq:job:*"))
    queue.remove([job_id("digits", 0, 1), job_id("digits", 2, 1), "never-there-1-a1"])
    assert taken(queue) == [(spec(1), 1)]
    assert len(before) == 3
    assert queue.rq.connection.keys("rq:job:*") == [b"rq:job:digits-1-a1"]


def test_a_removed_attempt_can_be_put_again(queue: TrialQueue) -> None:
    queue.put_front(spec(7), 2)
    queue.remove([job_id("digits", 7, 2)])
    queue.put_front(spec(7), 2)
    assert taken(queue) == [(spec(7), 2)]


def test_a_job_is_json_and_nothing_else(queue: TrialQueue) -> None:
    queue.put([(SPEC, 1)])
    queue.put_front(SPEC, 2)
    for job in queue.waiting():
        raw: Any = queue.rq.connection.hget(f"rq:job:{job}", "data")
        name, _, args, _ = json.loads(zlib.decompress(raw))
        assert name == RUN_TRIAL
        assert TrialSpec.from_json(args[0]) == SPEC


def test_a_job_has_no_time_limit_of_its_own(queue: TrialQueue) -> None:
    queue.put([(SPEC, 1)])
    queue.put_front(SPEC, 2)
    for job in queue.waiting():
        assert queue.rq.connection.hget(f"rq:job:{job}", "timeout") == b"-1"


def test_jobs_are_like_those_that_rq_makes(queue: TrialQueue) -> None:
    queue.put([(SPEC, 1)])
    ours = job_id("digits", 7, 1)
    args = Job.fetch(ours, connection=queue.rq.connection, serializer=queue.rq.serializer).args
    queue.rq.enqueue_many([queue.rq.prepare_data(RUN_TRIAL, args=args, job_id="rq", **BOOKS)])

    def fields(job: str) -> dict[bytes, bytes]:
        values: dict[bytes, bytes] = queue.rq.connection.hgetall(Job.key_for(job))  # type: ignore
        call = zlib.decompress(values.pop(b"data"))
        values = {name: value for name, value in values.items() if value}
        for when in (b"created_at", b"enqueued_at"):
            values[when] = values[when][:4]
        return {**values, b"call": json.dumps(json.loads(call)).encode()}

    assert fields(ours) == fields("rq")
    assert queue.rq in Queue.all(connection=queue.rq.connection)


@given(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.integers() | st.text()))
def test_hyperparameters_arrive_to_the_last_digit(params: dict[str, float | int | str]) -> None:
    sent = TrialSpec("digits", "u1", 7, "coarse", params, 5, 4)
    assert TrialSpec.from_json(sent.to_json()) == sent


GOOD = json.loads(SPEC.to_json())


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        None,
        (SPEC.to_json(), 1),
        (SPEC.to_json(), 1, "", ""),
        (SPEC.to_json(), None, ""),
        (SPEC.to_json(), "one", ""),
        (SPEC.to_json(), math.inf, ""),
        (None, 1, ""),
        ("[]", 1, ""),
    ],
)
def test_what_is_no_attempt_is_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match="not a trial"):
        QueuedAttempt.read(arguments)


def test_an_attempt_is_read_as_it_was_signed() -> None:
    attempt = QueuedAttempt.signed(SPEC, 3, "secret")
    assert QueuedAttempt.read(json.loads(json.dumps(attempt.arguments))) == attempt
    assert (attempt.key, attempt.job) == (("digits", 7, 3), "digits-7-a3")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "7",
        "null",
        '"abcdefg"',
        "[]",
        "{}",
        json.dumps(GOOD[:-1]),
        json.dumps([*GOOD, 1]),
        *(json.dumps([*GOOD[:at], None, *GOOD[at + 1 :]]) for at in range(7)),
        *(json.dumps([*GOOD[:at], math.inf, *GOOD[at + 1 :]]) for at in (2, 5, 6)),
        json.dumps([*GOOD[:2], -1, *GOOD[3:]]),
        json.dumps([*GOOD[:2], 10**18, *GOOD[3:]]),
        *(
            json.dumps([name, *GOOD[1:]])
            for name in ("", ".", "..", "../x", "a/b", "/tmp/x", "a\\b", "a\0b", "-rf", ".x", "x\n")
        ),
        json.dumps(["x" * 90, *GOOD[1:]]),
    ],
)
def test_what_is_no_trial_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a trial"):
        TrialSpec.from_json(text)
