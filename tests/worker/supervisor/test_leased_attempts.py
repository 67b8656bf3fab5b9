"""What becomes of attempts when their worker's child ends, in every way it can."""

from typing import Any

import pytest

from scattershot_common.bus.connection import connect
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialQueue, TrialSpec
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_state import TrialStates
from scattershot_worker.supervisor.leased_attempts import LeasedAttempt, LeasedAttempts, charge_of

STUDY = StudyInfo("digits", "u1", "digits", "acc", "maximize", stall=9.0)
LANES = range(3)


class WorkerContext:
    """Three lanes of a pack, claimed by this worker."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url)
        self.queue = TrialQueue(connect(url, decode=False))
        self.states = TrialStates(self.connection, "digits")
        self.charges = LeasedAttempts(self.connection, self.queue)
        for number in LANES:
            self.states.submit(number, 4)
        self.states.claim_all([(number, 1) for number in LANES], "w")
        first, *others = (charge(number) for number in LANES)
        self.charges.open(first)
        self.charges.info = STUDY
        for other in others:
            self.charges.take(other)

    def state(self, trial: int) -> tuple[str, int]:
        """Return the trial's state and how often it has failed."""
        state, failures = self.connection.hmget(self.states.keys.trial(trial), "state", "failures")
        return str(state), int(str(failures))


def charge(trial: int) -> LeasedAttempt:
    text = TrialSpec("digits", "u1", trial, "coarse", {}, trial, 4).to_json()
    return charge_of({"took": text, "number": 1, "signature": ""})


@pytest.fixture
def bench(redis_url: str) -> WorkerContext:
    return WorkerContext(redis_url)


def test_each_lane_has_a_lease_that_is_renewed_and_a_stop_of_its_own(bench: WorkerContext) -> None:
    assert bench.charges.renew() == []
    bench.states.signal(1, StopReason.KILL, "poor")
    bench.states.signal(2, StopReason.HOLD, "")
    bench.states.requeue(0, 1, Outcome.LOST, max_failures=3)
    stops = {one.spec.trial: stop for one, stop in bench.charges.renew()}
    assert stops == {0: "fenced", 1: "kill", 2: "hold"}


def test_a_child_that_dies_takes_all_its_lanes_with_it_and_all_are_given_back(
    bench: WorkerContext,
) -> None:
    bench.charges.bury(-9)
    assert [bench.state(number) for number in LANES] == [("waiting", 1)] * 3
    assert sorted(bench.queue.waiting()) == [f"digits-{number}-a2" for number in LANES]
    assert len(bench.charges) == 0


def test_what_is_given_to_another_worker_goes_behind_all_that_waits(bench: WorkerContext) -> None:
    bench.queue.put([(charge(7).spec, 1)])
    for number, outcome in ((0, Outcome.YIELD), (1, Outcome.DRAIN)):
        one = bench.charges.get(["digits", number, 1])
        assert one is not None
        bench.charges.settle(one, outcome, "")
    assert bench.queue.waiting() == ["digits-1-a2", "digits-7-a1", "digits-0-a2"]
    assert bench.state(0) == ("waiting", 0)


def test_lanes_beside_one_that_ignored_its_stop_have_not_failed(bench: WorkerContext) -> None:
    deaf = bench.charges.get(["digits", 1, 1])
    assert deaf is not None
    bench.states.signal(1, StopReason.KILL, "poor")
    deaf.stop, deaf.stop_since = StopReason.KILL, 0.0
    bench.charges.deaf = True
    bench.charges.bury(-9)
    assert bench.state(1)[0] == "killed"
    assert [bench.state(number) for number in (0, 2)] == [("waiting", 0)] * 2


def test_lanes_of_a_child_that_hung_have_failed_all(bench: WorkerContext) -> None:
    bench.charges.hung = True
    bench.charges.bury(-9)
    assert [bench.state(number) for number in LANES] == [("waiting", 1)] * 3


def test_a_lane_that_came_to_its_end_is_not_given_back(bench: WorkerContext) -> None:
    one = bench.charges.get(["digits", 1, 1])
    assert one is not None
    bench.charges.settle(one, Outcome.ENDED, "complete")
    bench.charges.bury(1)
    assert bench.state(1) == ("running", 0), "its end is the child's to report"
    assert sorted(bench.queue.waiting()) == ["digits-0-a2", "digits-2-a2"]


def test_lanes_that_were_to_drain_have_not_failed_though_the_child_died(
    bench: WorkerContext,
) -> None:
    for one in bench.charges:
        one.stop = StopReason.DRAIN
    bench.charges.bury(-15)
    assert [bench.state(number) for number in LANES] == [("waiting", 0)] * 3


@pytest.mark.parametrize("key", [None, [], ["digits", 7, 1], ["digits", "x", 1], "digits", 5])
def test_a_word_about_what_is_not_there_is_about_nothing(bench: WorkerContext, key: Any) -> None:
    assert bench.charges.get(key) is None
