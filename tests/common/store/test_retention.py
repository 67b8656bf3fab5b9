"""Which checkpoints are kept, against a slow and simple rule."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scattershot_common.objective import Goal, Objective
from scattershot_common.store.checkpoint_names import checkpoint_name
from scattershot_common.store.retention import Retention, obsolete_checkpoints


def named(values: dict[int, float], trial: int = 7) -> dict[int, str]:
    return {
        epoch: checkpoint_name("acc", value, trial, epoch)
        for epoch, value in values.items()
        if math.isfinite(value)
    }


def test_a_worker_keeps_the_best_and_the_last_two_of_its_trial() -> None:
    values = {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.8, 5: 0.6}
    names = named(values)
    assert obsolete_checkpoints(names.values(), values) == [names[1], names[3]]


def test_where_the_last_is_the_best_the_one_before_stays_all_the_same() -> None:
    values = {1: 0.5, 2: 0.7, 3: 0.9}
    names = named(values)
    assert obsolete_checkpoints(names.values(), values) == [names[1]]


def test_the_smallest_is_the_best_where_the_goal_is_to_minimize() -> None:
    values = {1: 0.5, 2: 0.9, 3: 0.8, 4: 0.7}
    names = named(values)
    assert obsolete_checkpoints(names.values(), values, Objective("loss", "minimize")) == [names[2]]


def test_exact_values_decide_where_names_round_alike() -> None:
    values = {1: 0.931201, 2: 0.931204, 3: 0.931202, 4: 0.1, 5: 0.1}
    names = named(values)
    assert obsolete_checkpoints(names.values(), values) == [names[1], names[3]]


def test_the_earliest_of_equally_good_epochs_is_the_best() -> None:
    values = {1: 0.5, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}
    names = named(values)
    assert obsolete_checkpoints(names.values(), values) == [names[1], names[3]]


def test_a_checkpoint_whose_report_is_on_the_way_is_left_alone() -> None:
    names = named({1: 0.5, 2: 0.6, 3: 0.7, 4: 0.9})
    assert obsolete_checkpoints(names.values(), {1: 0.5, 2: 0.6, 3: 0.7}) == [names[1]]


def test_a_lost_workers_later_file_does_not_cost_the_accepted_last_two() -> None:
    names = named({4: 0.9, 5: 0.4, 6: 0.5, 7: 0.6, 9: 0.99})
    assert obsolete_checkpoints(names.values(), {4: 0.9, 5: 0.4, 6: 0.5, 7: 0.6}) == [names[5]]


def test_an_epoch_that_is_not_finite_is_neither_best_nor_last() -> None:
    values = {1: 0.5, 2: 0.4, 3: 0.3, 4: 0.2, 5: math.nan, 6: math.inf}
    names = named(values)
    assert obsolete_checkpoints(names.values(), values) == [names[2]]
    altered = named({1: 0.9, 2: 0.4, 3: 0.95})
    assert obsolete_checkpoints(altered.values(), {1: 0.9, 2: 0.4, 3: math.nan}) == []
    assert obsolete_checkpoints([], {1: math.nan}) == []


def test_pinned_and_foreign_files_are_never_leftovers() -> None:
    values = {1: 0.5, 2: 0.4, 3: 0.3, 4: 0.6}
    names = named(values)
    assert obsolete_checkpoints([*names.values(), "notes.txt"], values, pinned=[names[1]]) == [
        names[2]
    ]


@given(
    st.dictionaries(st.integers(1, 30), st.sampled_from([0.1, 0.5, 0.9, math.nan]), min_size=1),
    st.sampled_from(["maximize", "minimize"]),
)
def test_best_and_last_two_survive_any_order_of_epochs_and_leftovers_are_the_rest(
    values: dict[int, float], goal: Goal
) -> None:
    names = named(values)
    gone = set(obsolete_checkpoints(names.values(), values, Objective("a", goal)))
    if not names:
        assert gone == set()
        return
    best_value = (max if goal == "maximize" else min)(values[epoch] for epoch in names)
    best = min(epoch for epoch in names if values[epoch] == best_value)
    assert gone == {
        name for epoch, name in names.items() if epoch not in (best, *sorted(names)[-2:])
    }


class Rule:
    """The retention rule as written down, evaluated from scratch after every event."""

    def __init__(self, keep: int, sign: int) -> None:
        self.keep, self.sign = keep, sign
        self.living: set[int] = set()
        self.with_files: set[int] = set()
        self.best: dict[int, float] = {}
        self.pinned: set[int] = set()

    def tell(self, trial: int, value: float, living: bool) -> None:
        self.with_files.add(trial)
        (self.living.add if living else self.living.discard)(trial)
        if math.isfinite(value):
            value *= self.sign
            self.best[trial] = max(value, self.best.get(trial, value))

    def removed(self) -> set[int]:
        top = sorted(self.best, key=lambda trial: (-self.best[trial], trial))[: self.keep]
        gone = self.with_files - self.living - self.pinned - set(top)
        self.with_files -= gone
        return gone


trials = st.integers(0, 4)
events = st.one_of(
    st.tuples(
        st.sampled_from(["active", "ended"]),
        trials,
        st.sampled_from([0.0, 0.5, 1.0, 2.0, math.nan, math.inf, -math.inf]),
    ),
    st.tuples(st.sampled_from(["pin", "unpin"]), trials, st.just(0.0)),
)


@settings(max_examples=400)
@given(
    st.lists(events, min_size=5, max_size=30),
    st.integers(0, 3),
    st.sampled_from([Objective("a", "maximize"), Objective("a", "minimize")]),
)
def test_the_keeper_removes_at_every_event_exactly_what_the_rule_no_longer_keeps(
    told: list[tuple[str, int, float]], keep: int, objective: Objective
) -> None:
    retention = Retention(keep, objective)
    rule = Rule(keep, -1 if objective.goal == "minimize" else 1)
    for what, trial, value in told:
        gone: list[int] = []
        if what == "pin":
            retention.pin([trial])
            rule.pinned.add(trial)
        elif what == "unpin":
            gone = retention.unpin([trial])
            rule.pinned.discard(trial)
        else:
            gone = (retention.active if what == "active" else retention.ended)(trial, value)
            rule.tell(trial, value, living=what == "active")
        assert len(gone) == len(set(gone))
        assert set(gone) == rule.removed()


def test_a_candidate_of_a_later_stage_keeps_its_files_until_it_is_passed_over() -> None:
    retention = Retention(keep=1)
    assert retention.active(0, 0.5) == []
    assert retention.active(1, 0.9) == []
    assert retention.ended(0) == [0]
    assert retention.ended(1) == []


def test_an_ensembles_member_stays_until_it_is_unpinned() -> None:
    retention = Retention(keep=1)
    retention.pin([0])
    assert retention.ended(0, 0.5) == []
    assert retention.ended(1, 0.9) == []
    assert retention.unpin([0, 1]) == [0]
    assert retention.unpin([0, 1]) == []


def test_a_diverged_trial_never_takes_a_place() -> None:
    retention = Retention(keep=2)
    assert retention.ended(0, math.nan) == [0]
    assert retention.ended(1, math.inf) == [1]
    assert [retention.ended(trial, 0.1 * trial) for trial in (2, 3, 4)] == [[], [], [2]]


def test_a_negative_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="keep"):
        Retention(-1)


def test_five_thousand_trials_cost_per_event_what_fifty_do() -> None:
    class Counted(float):
        compared = 0

        def __lt__(self, other: object) -> bool:
            Counted.compared += 1
            return float(self) < other  # type: ignore[operator]

        def __neg__(self) -> "Counted":
            return Counted(-float(self))

        def __rmul__(self, other: float) -> "Counted":
            return Counted(float(self) * other)

    rng = random.Random(0)
    retention = Retention(keep=20)
    ended = 5000
    gone = [out for trial in range(ended) for out in retention.ended(trial, Counted(rng.random()))]
    assert len(gone) == len(set(gone)) == ended - 20
    assert ended <= Counted.compared <= 10 * ended
