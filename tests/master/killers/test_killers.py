from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattershot_common.objective import Goal, Objective
from scattershot_common.study import settings
from scattershot_master.killers import KILLERS
from scattershot_master.killers.killer import Curve, Killer, Peers, Verdict
from scattershot_master.killers.make_killers import build, judge_all

finite = st.floats(-1e6, 1e6)
any_value = finite | st.sampled_from([nan, inf, -inf])


def killer(rule: str, *, goal: Goal = "maximize", **options: float) -> Killer:
    [built] = build([rule], options, objective=Objective("m", goal))
    return built


def peers_at(epoch: int, *values: float) -> Peers:
    """Peers numbered from 100 that report their value at `epoch` alone."""
    peers = Peers()
    for number, value in enumerate(values, 100):
        peers.add(number, epoch, value)
    return peers


def judged(
    rule: Killer, values: Sequence[float], peers: Peers | None = None, losses: Any = None
) -> Verdict:
    losses = losses if losses is not None else [None] * len(values)
    return judge_all([rule], Curve(1, values, losses, budget=100), peers or Peers())


def test_there_is_a_file_for_every_rule_and_the_table_names_them_all() -> None:
    assert set(KILLERS) == {
        "halving", "sync_halving", "median", "percentile", "diverged", "patience",
    }  # fmt: skip
    folder = Path(__file__).parents[3] / "master/scattershot_master/killers"
    assert {path.stem for path in folder.glob("*.py")} == {
        *KILLERS,
        "__init__",
        "killer",
        "make_killers",
    }


# what the peers of a trial are


def test_the_standings_of_the_others_leave_out_the_trial_itself_whether_it_was_added_or_not() -> (
    None
):
    peers = peers_at(3, 0.5, 0.1, nan, 0.3)
    assert list(peers.others(3, 1)) == [-inf, 0.1, 0.3, 0.5]
    assert list(peers.others(3, 103)) == [-inf, 0.1, 0.5]
    assert peers.others(3, 100)[-1] == 0.3
    assert list(peers.others(3, 101)[1:]) == [0.3, 0.5]
    assert list(peers.others(2, 1)) == []


def test_a_peer_stands_at_its_best_so_far_but_at_minus_infinity_where_it_reported_nan() -> None:
    peers = Peers()
    for epoch, value in enumerate([0.2, 0.6, 0.4, inf, 0.1], 1):
        peers.add(7, epoch, value)
    assert [peers.others(epoch, 1)[0] for epoch in range(1, 6)] == [0.2, 0.6, 0.6, -inf, 0.6]


def test_an_epoch_reported_again_by_a_second_attempt_counts_once() -> None:
    peers = peers_at(1, 0.5)
    peers.add(100, 1, 0.9)
    assert list(peers.others(1, 1)) == [0.5]


@given(st.lists(any_value, max_size=20), st.integers(99, 120))
def test_others_are_what_sorting_without_the_trial_gives(values: list[float], trial: int) -> None:
    rest = [value for number, value in enumerate(values, 100) if number != trial]
    assert list(peers_at(1, *values).others(1, trial)) == sorted(
        value if isfinite(value) else -inf for value in rest
    )


# asynchronous halving


@pytest.mark.parametrize(
    ("value", "others", "action"),
    [
        (0.1, [], "continue"),  # the first one there
        (0.1, [0.9], "continue"),  # two of eta = 3
        (0.1, [0.9, 0.8], "kill"),  # the worst of three, one place
        (0.9, [0.1, 0.8], "continue"),
        (0.8, [0.1, 0.9], "kill"),  # second of three
        (0.8, [0.1, 0.2, 0.3, 0.9], "kill"),  # second of five, still one place
        (0.8, [0.1, 0.2, 0.3, 0.4, 0.9], "continue"),  # second of six, two places
        (0.9, [0.9, 0.9], "continue"),  # a tie
        (nan, [], "kill"),
        (nan, [nan, nan], "kill"),
        (0.1, [nan, nan], "continue"),
    ],
)
def test_halving_keeps_the_best_third_of_those_at_the_rung_so_far(
    value: float, others: list[float], action: str
) -> None:
    assert judged(killer("halving"), [value], peers_at(1, *others)).action == action


def test_halving_judges_at_its_rungs_alone() -> None:
    rule = killer("halving", grace=2, eta=3)
    killed_at = [
        epoch
        for epoch in range(1, 40)
        if judged(rule, [0.1] * epoch, peers_at(epoch, 0.9, 0.9)).action == "kill"
    ]
    assert killed_at == [2, 6, 18]


def test_halving_judges_by_the_best_so_far() -> None:
    assert judged(killer("halving"), [0.9, 0.2, 0.1], peers_at(3, 0.5, 0.5)).action == "continue"


def test_halving_says_why() -> None:
    verdict = judged(killer("halving"), [0.412], peers_at(1, *[0.5] * 5))
    assert verdict.reason == "halving rule, rung 1: 0.412 is not among the best 2 of 6 so far"


# synchronous halving


def test_sync_halving_stops_at_its_rungs_below_the_budget() -> None:
    assert list(killer("sync_halving", grace=1, eta=3).stops(27)) == [1, 3, 9]
    assert list(killer("sync_halving", grace=2, eta=2).stops(9)) == [2, 4, 8]
    assert list(killer("sync_halving", grace=5).stops(5)) == []


def test_sync_halving_promotes_the_best_third_rounded_up_and_breaks_ties_by_number() -> None:
    verdicts = killer("sync_halving").settle(3, {4: 0.5, 9: 0.9, 2: 0.5, 7: 0.1})
    assert {trial for trial, verdict in verdicts.items() if verdict.action == "continue"} == {2, 9}
    assert verdicts[7].reason == "sync_halving rule, rung 3: 0.1 is not among the best 2 of 4"


@pytest.mark.parametrize(
    ("standings", "promoted"),
    [
        ({1: 0.3}, {1}),
        ({1: nan}, set()),
        ({1: nan, 2: inf, 3: -inf}, set()),
        ({1: nan, 2: nan, 3: 0.1, 4: nan}, {3}),  # two places, one finite value
        ({}, set()),
    ],
)
def test_sync_halving_never_promotes_a_nan(standings: dict[int, float], promoted: set[int]) -> None:
    verdicts = killer("sync_halving").settle(1, standings)
    assert verdicts.keys() == standings.keys()
    assert {t for t, verdict in verdicts.items() if verdict.action == "continue"} == promoted


def test_sync_halving_never_judges_a_report() -> None:
    assert judged(killer("sync_halving"), [0.0], peers_at(1, *[1.0] * 50)).action == "continue"


@given(st.dictionaries(st.integers(0, 99), any_value, max_size=30), st.randoms())
def test_sync_halving_does_not_depend_on_the_order_of_arrival(
    standings: dict[int, float], random: Any
) -> None:
    rule = killer("sync_halving")
    shuffled = list(standings.items())
    random.shuffle(shuffled)
    assert rule.settle(3, dict(shuffled)) == rule.settle(3, standings)


# median and percentile


@pytest.mark.parametrize(
    ("rule", "value", "others", "action"),
    [
        ("median", 0.1, [0.5] * 4, "continue"),  # too few peers
        ("median", 0.1, [0.5] * 5, "kill"),
        ("median", 0.5, [0.5] * 5, "continue"),  # a tie
        ("median", 0.34, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "kill"),  # the median is 0.35
        ("median", 0.36, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "continue"),
        ("median", -0.5, [nan, nan, nan, 0.1, 0.2], "continue"),  # their median is no number
        ("median", nan, [], "kill"),
        ("percentile", 0.19, [0.1, 0.2, 0.3, 0.4, 0.5], "kill"),  # the lower quartile is 0.2
        ("percentile", 0.21, [0.1, 0.2, 0.3, 0.4, 0.5], "continue"),
        ("percentile", inf, [0.1], "kill"),
    ],
)
def test_a_trial_worse_than_a_share_of_its_peers_is_killed(
    rule: str, value: float, others: list[float], action: str
) -> None:
    assert judged(killer(rule), [value], peers_at(1, *others)).action == action


def test_the_median_compares_the_best_so_far_at_the_same_epoch() -> None:
    peers = Peers()
    for trial in range(10, 15):
        for epoch, value in enumerate([0.3, 0.6, 0.2], 1):
            peers.add(trial, epoch, value)
    rule = killer("median")
    assert judged(rule, [0.4], peers).action == "continue"
    assert judged(rule, [0.4, 0.5], peers).action == "kill"
    assert judged(rule, [0.7, 0.5], peers).action == "continue"
    verdict = judged(rule, [0.4, 0.5, 0.55], peers)
    assert verdict.reason == (
        "median rule: best 0.55 by epoch 3 is worse than 0.6, the median of 5 trials"
    )


def test_a_trial_equal_to_all_its_peers_is_killed_by_no_rounding() -> None:
    for percentile in range(1, 100):
        rule = killer("percentile", percentile=percentile)
        for value in (0.1, 0.6, 0.7, 1 / 3):
            assert judged(rule, [value], peers_at(1, *[value] * 7)).action == "continue"


def test_reasons_show_a_minimized_metric_as_it_was_reported() -> None:
    rule = killer("percentile", percentile=40, goal="minimize")
    verdict = judged(rule, [-2.5], peers_at(1, *[-0.5] * 6))
    assert verdict.reason == (
        "percentile rule: best 2.5 by epoch 1 is worse than 0.5, the 40% percentile of 6 trials"
    )
    assert judged(rule, [-inf]).reason == "percentile rule: its value at epoch 1 is inf"


# diverged and patience


@pytest.mark.parametrize(
    ("values", "losses", "reason"),
    [
        ([0.5, nan], [2.3, 2.0], "diverged rule: its metric is nan at epoch 2"),
        ([0.5, inf], [2.3, 2.0], "diverged rule: its metric is inf at epoch 2"),
        ([0.1], [nan], "diverged rule: its loss is nan at epoch 1"),
        ([0.1, 0.1], [None, inf], "diverged rule: its loss is inf at epoch 2"),
        ([0.1, 0.1], [2.3, 23.1], "diverged rule: loss 23.1 is above 23 (it began at 2.3)"),
        ([0.1, 0.1], [nan, 50.0], ""),  # the first finite loss is what it began at
        ([0.1, 0.1], [2.3, 22.9], ""),
        ([0.1, 0.1], [0.001, 9.0], ""),  # a loss of ordinary size
        ([0.1, 0.1], [-40.0, -12.0], ""),  # a log-density may be negative
        ([0.1, 0.1], [-40.0, 390.0], ""),
        ([0.1, 0.1], [-40.0, 410.0], "diverged rule: loss 410 is above 400 (it began at -40)"),
        ([0.1, 0.1], [None, None], ""),
        ([0.1, 0.1], [2.3, None], ""),
    ],
)
def test_diverged_kills_what_is_no_number_or_far_above_the_start(
    values: list[float], losses: list[float | None], reason: str
) -> None:
    verdict = judged(killer("diverged"), values, losses=losses)
    assert verdict.action == ("kill" if reason else "continue")
    assert verdict.reason.startswith(reason)


@given(st.floats(1e-6, 1e3), st.lists(st.floats(0.2, 5.0), min_size=1, max_size=30))
def test_a_loss_that_wobbles_fivefold_about_its_start_has_not_diverged(
    start: float, wobble: list[float]
) -> None:
    losses = [start, *(start * factor for factor in wobble)]
    assert judged(killer("diverged"), [0.5] * len(losses), losses=losses).action == "continue"


@pytest.mark.parametrize(
    ("values", "action"),
    [
        ([0.5, 0.4], "continue"),
        ([0.5, 0.4, 0.4], "kill"),
        ([0.5, 0.5, 0.5], "kill"),  # equal is no improvement
        ([0.5, 0.4, 0.51], "continue"),
        ([0.5, 0.4, nan], "kill"),
        ([0.5, inf, inf], "kill"),
        ([nan], "continue"),
        ([nan, nan], "kill"),
        ([nan, 0.1, 0.0], "continue"),
    ],
)
def test_patience_ends_after_as_many_epochs_without_improvement(
    values: list[float], action: str
) -> None:
    assert judged(killer("patience", patience=2), values).action == action


def test_patience_says_why() -> None:
    assert judged(killer("patience", patience=2), [0.1, 0.5, 0.3, 0.4]).reason == (
        "patience rule: 0.5 at epoch 2 was not bettered in 2 epochs"
    )


# all of them

RULES = sorted(KILLERS)


@given(st.data(), st.sampled_from(RULES), st.integers(1, 6))
def test_no_rule_kills_before_its_grace(data: st.DataObject, name: str, grace: int) -> None:
    values = data.draw(st.lists(any_value, min_size=1, max_size=8))
    losses = data.draw(st.lists(any_value, min_size=len(values), max_size=len(values)))
    others = data.draw(st.lists(any_value, max_size=12))
    rule = killer(name, grace=grace, patience=1)
    verdict = judged(rule, values, peers_at(len(values), *others), losses)
    assert verdict.action == "continue" or len(values) >= grace
    assert all(stop >= grace for stop in rule.stops(100))


@given(st.sampled_from(["halving", "median", "percentile"]), any_value, st.lists(any_value))
def test_a_nan_survives_no_comparison(name: str, value: float, others: list[float]) -> None:
    if not isfinite(value):
        assert judged(killer(name), [0.9, 0.8, value], peers_at(3, *others)).action == "kill"


@given(
    st.sampled_from(["halving", "median", "percentile"]),
    finite,
    finite,
    st.lists(any_value, max_size=15),
)
def test_what_kills_a_value_kills_every_worse_one(
    name: str, one: float, other: float, others: list[float]
) -> None:
    rule, peers = killer(name), peers_at(1, *others)
    better, worse = max(one, other), min(one, other)
    if judged(rule, [better], peers).action == "kill":
        assert judged(rule, [worse], peers).action == "kill"


@given(
    st.sampled_from(["halving", "median", "percentile"]),
    st.lists(any_value, min_size=1, max_size=12),
)
def test_a_best_trial_is_killed_only_when_no_value_is_finite(
    name: str, values: list[float]
) -> None:
    peers = peers_at(1, *values)
    top = max((v for v in values if isfinite(v)), default=None)
    if top is not None:
        number = 100 + values.index(top)
        verdict = killer(name).judge(Curve(number, [top], [None], 9), peers)
        assert verdict.action == "continue"


def test_the_first_kill_of_several_rules_wins_and_names_its_rule() -> None:
    rules = build(["diverged", "median", "halving"], {"min_peers": 2})
    peers = peers_at(1, 0.9, 0.9, 0.9)
    broken = judge_all(rules, Curve(1, [0.1], [nan], 9), peers)
    assert broken.reason.startswith("diverged rule")
    poor = judge_all(rules, Curve(1, [0.1], [1.0], 9), peers)
    assert (poor.action, poor.reason[:11]) == ("kill", "median rule")
    assert judge_all(rules, Curve(1, [0.9], [1.0], 9), peers).action == "continue"
    assert judge_all([], Curve(1, [nan], [nan], 9), peers).action == "continue"


@pytest.mark.parametrize("name", RULES)
def test_a_trial_at_the_end_of_its_budget_is_complete_and_not_killed(name: str) -> None:
    curve = Curve(1, [0.1, nan], [1.0, nan], budget=2)
    assert judge_all([killer(name, patience=1)], curve, peers_at(2, 1, 1, 1, 1, 1, 1)) == Verdict(
        "continue"
    )


def test_each_rule_takes_its_own_options() -> None:
    options = {"grace": 2, "eta": 4, "percentile": 10, "patience": 3, "min_peers": 7, "factor": 5.0}
    assert [str(rule) for rule in build(RULES, options)] == [
        "Diverged(grace=2, factor=5.0)",
        "Halving(grace=2, eta=4)",
        "Median(grace=2, percentile=50.0, min_peers=7)",
        "Patience(grace=2, patience=3)",
        "Percentile(grace=2, percentile=10, min_peers=7)",
        "SyncHalving(grace=2, eta=4)",
    ]


def test_the_study_file_knows_the_same_rules_options_and_defaults() -> None:
    assert set(settings.RULES) == set(KILLERS)
    defaults = settings.Kill().model_dump(exclude={"rule"})
    assert build(RULES, defaults) == build(RULES, {})
    used = {field.name for rule in KILLERS.values() for field in fields(rule)}
    assert defaults.keys() == used - {"objective"}
