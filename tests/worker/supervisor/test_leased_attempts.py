"""What becomes of attempts when their worker's child ends, in every way it can."""

from typing import Any

import pytest

from scattershot_common.bus.connection import connect
from scattershot_common.bus.outcome import Outcome, StopReason
from scattershot_common.bus.queue import TrialQueue
from scattershot_common.bus.study_info import StudyInfo
from scattershot_common.bus.trial_spec import QueuedAttempt, TrialSpec
from scattershot_common.bus.trial_state import TrialStates
from scattershot_worker.supervisor.leased_attempts import LeasedAttempt, LeasedAttempts

STUDY = StudyInfo("digits", "u1", "digits", "acc", "maximize", stall=9.0)
LANES = range(3)


class Lanes:
    """Three lanes of a pack, claimed by this worker."""

    def __init__(self, url: str) -> None:
        self.connection = connect(url)
        self.queue = TrialQueue(connect(url, decode=False))
        self.states = TrialStates(self.connection, "digits")
        self.attempts = LeasedAttempts(self.connection, self.queue)
        for number in LANES:
            self.states.submit(number, 4)
        self.states.claim_all([(number, 1) for number in LANES], "w")
        first, *further = (attempt(number) for number in LANES)
        self.attempts.open(first)
        self.attempts.info = STUDY
        for lane in further:
            self.attempts.add(lane)

    def leased(self, trial: int) -> LeasedAttempt:
        leased = self.attempts.get(["digits", trial, 1])
        assert leased is not None
        return leased

    def state(self, trial: int) -> tuple[str, int]:
        """Return the trial's state and how often it has failed."""
        state, failures = self.connection.hmget(self.states.keys.trial(trial), "state", "failures")
        return str(state), int(str(failures))


def attempt(trial: int) -> QueuedAttempt:
    return QueuedAttempt.signed(TrialSpec("digits", "u1", trial, "coarse", {}, trial, 4), 1, "")


@pytest.fixture
def lanes(redis_url: str) -> Lanes:
    return Lanes(redis_url)


def test_each_lane_has_a_lease_that_is_renewed_and_a_stop_of_its_own(lanes: Lanes) -> None:
    assert lanes.attempts.renew() == []
    lanes.states.signal(1, StopReason.KILL, "poor")
    lanes.states.signal(2, StopReason.HOLD, "")
    lanes.states.requeue(0, 1, Outcome.LOST, max_failures=3)
    stops = {leased.trial: stop for leased, stop in lanes.attempts.renew()}
    assert stops == {0: "fenced", 1: "kill", 2: "hold"}


def test_a_child_that_dies_takes_all_its_lanes_with_it_and_all_are_given_back(
    lanes: Lanes,
) -> None:
    lanes.attempts.settle_dead(-9)
    assert [lanes.state(number) for number in LANES] == [("waiting", 1)] * 3
    assert sorted(lanes.queue.waiting()) == [f"digits-{number}-a2" for number in LANES]
    assert len(lanes.attempts) == 0


def test_what_is_given_to_another_worker_goes_behind_all_that_waits(lanes: Lanes) -> None:
    lanes.queue.put([(attempt(7).spec, 1)])
    for number, outcome in ((0, Outcome.YIELD), (1, Outcome.DRAIN)):
        lanes.attempts.settle(lanes.leased(number), outcome, "")
    assert lanes.queue.waiting() == ["digits-1-a2", "digits-7-a1", "digits-0-a2"]
    assert lanes.state(0) == ("waiting", 0)


def test_lanes_beside_one_that_ignored_its_stop_have_not_failed(lanes: Lanes) -> None:
    ignoring = lanes.leased(1)
    lanes.states.signal(1, StopReason.KILL, "poor")
    ignoring.stop, ignoring.stop_since = StopReason.KILL, 0.0
    lanes.attempts.ignored_stop = True
    lanes.attempts.settle_dead(-9)
    assert lanes.state(1)[0] == "killed"
    assert [lanes.state(number) for number in (0, 2)] == [("waiting", 0)] * 2


def test_lanes_of_a_child_that_hung_have_failed_all(lanes: Lanes) -> None:
    lanes.attempts.hung = True
    lanes.attempts.settle_dead(-9)
    assert [lanes.state(number) for number in LANES] == [("waiting", 1)] * 3


def test_a_lane_that_came_to_its_end_is_not_given_back(lanes: Lanes) -> None:
    lanes.attempts.settle(lanes.leased(1), Outcome.ENDED, "complete")
    lanes.attempts.settle_dead(1)
    assert lanes.state(1) == ("running", 0), "its end is the child's to report"
    assert sorted(lanes.queue.waiting()) == ["digits-0-a2", "digits-2-a2"]


def test_lanes_that_were_to_drain_have_not_failed_though_the_child_died(
    lanes: Lanes,
) -> None:
    for leased in lanes.attempts:
        leased.stop = StopReason.DRAIN
    lanes.attempts.settle_dead(-15)
    assert [lanes.state(number) for number in LANES] == [("waiting", 0)] * 3


@pytest.mark.parametrize("key", [None, [], ["digits", 7, 1], ["digits", "x", 1], "digits", 5])
def test_a_key_of_no_attempt_finds_none(lanes: Lanes, key: Any) -> None:
    assert lanes.attempts.get(key) is None
