"""The waiting jobs as a worker scans them, without RQ."""

from dataclasses import replace
from typing import Any

import pytest
from rq.job import Job

from scattershot_common.bus.keys import WORKERS
from scattershot_common.bus.queue import RUN_TRIAL, TrialQueue, WaitingTrials
from scattershot_common.bus.signing import SECRET_VARIABLE
from scattershot_common.bus.trial_spec import QueuedAttempt, TrialSpec
from scattershot_common.bus.trial_state import TrialStates
from support.redis_backends import ConnectRedis


@pytest.fixture
def queue(connect_redis: ConnectRedis) -> TrialQueue:
    return TrialQueue(connect_redis(decode=False))


@pytest.fixture
def waiting(connect_redis: ConnectRedis) -> WaitingTrials:
    return WaitingTrials(connect_redis(decode=False))


def spec(number: int, study: str = "digits", uid: str = "u1") -> TrialSpec:
    return TrialSpec(study, uid, number, "coarse", {"lr": 0.1, "o": 'é"'}, number, 4)


def test_attempts_are_seen_in_the_order_in_which_workers_would_take_them(
    queue: TrialQueue, waiting: WaitingTrials
) -> None:
    queue.put([(spec(0), 1), (spec(1), 1)])
    queue.put_front(spec(2), 3)
    attempts = waiting.look("digits", "u1", 10)
    assert [(attempt.spec, attempt.number) for attempt in attempts] == [
        (spec(2), 3),
        (spec(0), 1),
        (spec(1), 1),
    ]
    assert [attempt.job for attempt in attempts] == queue.waiting()
    assert [attempt.text for attempt in attempts] == [
        attempt.spec.to_json() for attempt in attempts
    ]


def test_only_the_head_of_the_queue_is_read(queue: TrialQueue, waiting: WaitingTrials) -> None:
    queue.put([(spec(number), 1) for number in range(5)])
    assert [attempt.spec.trial for attempt in waiting.look("digits", "u1", 2)] == [0, 1]


def test_other_studies_are_not_seen(queue: TrialQueue, waiting: WaitingTrials) -> None:
    others = [spec(1, "digits-2"), spec(2, "dig"), spec(3, "digits.2"), spec(4, uid="u0")]
    queue.put([(waiting_spec, 1) for waiting_spec in (*others, spec(0))])
    assert [attempt.spec for attempt in waiting.look("digits", "u1", 10)] == [spec(0)]
    assert [attempt.spec for attempt in waiting.look("digits.2", "u1", 10)] == [others[2]]


def test_what_is_on_the_queue_again_with_another_attempt_is_seen(
    queue: TrialQueue, waiting: WaitingTrials
) -> None:
    queue.put([(spec(0), 1)])
    (first,) = waiting.look("digits", "u1", 10)
    waiting.remove([first])
    assert waiting.look("digits", "u1", 10) == []
    queue.put([(spec(0), 2)])
    assert [attempt.number for attempt in waiting.look("digits", "u1", 10)] == [2]


def test_attempts_that_were_taken_leave_nothing_behind(
    queue: TrialQueue, waiting: WaitingTrials
) -> None:
    queue.put([(spec(0), 1), (spec(1), 1)])
    waiting.remove(waiting.look("digits", "u1", 10)[:1])
    assert queue.waiting() == ["digits-1-a1"]
    assert not Job.exists("digits-0-a1", connection=queue.rq.connection)
    assert Job.exists("digits-1-a1", connection=queue.rq.connection)


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"\x80\x04pickle",
        b"x\x9cnot zlib",
        {"func": "os.system", "args": ["true"]},
        {"func": "os.system", "args": [spec(9).to_json(), 1, ""]},
        {"args": ["[]", 1, ""]},
        {"args": [spec(9).to_json(), "one", ""]},
        {"args": [spec(9).to_json()]},
    ],
)
def test_jobs_of_other_origin_are_not_seen(
    queue: TrialQueue, waiting: WaitingTrials, connect_redis: ConnectRedis, data: Any
) -> None:
    connection = connect_redis(decode=False)
    if isinstance(data, dict):
        function = data.get("func", "scattershot.run_trial")
        queue.rq.enqueue(function, args=data["args"], job_id="digits-9-a1")
    else:
        queue.rq.enqueue("x", job_id="digits-9-a1")
        if data is None:
            connection.delete("rq:job:digits-9-a1")
        else:
            connection.hset("rq:job:digits-9-a1", "data", data)
    queue.put([(spec(0), 1)])
    assert [attempt.spec for attempt in waiting.look("digits", "u1", 10)] == [spec(0)]
    assert "digits-9-a1" in queue.waiting(), "the supervisor refuses it"


def test_jobs_of_an_earlier_version_are_seen(queue: TrialQueue, waiting: WaitingTrials) -> None:
    name, attempt = "scattershot_worker.job.run_trial", QueuedAttempt.signed(spec(9), 1, "")
    queue.rq.enqueue(name, args=attempt.arguments, job_id=attempt.job)
    assert waiting.look("digits", "u1", 10) == [attempt]


def test_a_job_under_the_id_of_another_trial_is_not_seen(
    queue: TrialQueue, waiting: WaitingTrials
) -> None:
    attempt = QueuedAttempt.signed(spec(9), 1, "")
    queue.rq.enqueue(RUN_TRIAL, args=attempt.arguments, job_id="digits-8-a1")
    assert waiting.look("digits", "u1", 10) == []


def test_signatures_come_along(
    queue: TrialQueue, waiting: WaitingTrials, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "of the cluster")
    queue.put([(spec(0), 1)])
    (attempt,) = waiting.look("digits", "u1", 10)
    assert attempt.is_authentic()
    assert not replace(attempt, text=attempt.text.replace("0.1", "9.9")).is_authentic()


def test_failures_and_workers_are_counted(
    queue: TrialQueue, waiting: WaitingTrials, connect_redis: ConnectRedis
) -> None:
    connection = connect_redis()
    states = TrialStates(connection, "digits")
    states.submit(0, 4)
    states.submit(1, 4, failures=2)
    queue.put([(spec(number), 1) for number in range(3)])
    assert waiting.failures(waiting.look("digits", "u1", 10)) == [0, 2, 0]
    assert waiting.workers() == 1, "itself, though it has not said so yet"
    connection.hset(WORKERS, mapping={"a": "{}", "b": "{}"})
    assert waiting.workers() == 2
