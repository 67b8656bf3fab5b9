from __future__ import annotations

import sys
from math import nan
from pathlib import Path
from typing import Any

import pytest

from scattershot_common.study.recorded_settings import StudySettings
from scattershot_common.trial import Value
from scattershot_master.diagnosis.diagnose import diagnose, diagnose_among
from scattershot_master.diagnosis.read_cases import read_study_case
from scattershot_master.diagnosis.study_case import StudyCase
from scattershot_master.diagnosis.study_rules import STUDY_RULES
from scattershot_master.diagnosis.study_rules.importance import importances
from scattershot_master.diagnosis.study_rules.killer_replay import replay
from scattershot_master.diagnosis.trial_case import Finding, TrialCase
from scattershot_master.killers.make_killers import build
from scattershot_master.show import study_page as pages
from scattershot_master.show.layout import plain_text
from scattershot_master.state.study_state import StageRecord, StudyState, TrialRecord
from support.synthetic_study import Simulation


@pytest.fixture(scope="module")
def state() -> StudyState:
    return Simulation().run()


def study_of(state: StudyState) -> Any:
    return read_study_case(state, Path("nowhere"))


def test_rates_above_which_all_trials_diverge_are_named(state: StudyState) -> None:
    (finding,) = STUDY_RULES["rates"](study_of(state))
    broken = [t.params["lr"] for t in state.trials.values() if t.history and t.params["lr"] > 4]  # type: ignore[operator]
    assert (
        f"all {len(broken)} trials from lr {min(broken):.3g} on diverge; the next"
        in finding.evidence
    )
    assert "upper bound of lr down" in finding.remedy


def test_the_hyperparameter_that_decides_is_the_most_important(state: StudyState) -> None:
    shares = importances(study_of(state))
    assert next(iter(shares)) == "lr" and shares["lr"] > 0.5
    assert sum(shares.values()) == pytest.approx(1)


def test_a_hyperparameter_under_a_condition_is_told_with_it(state: StudyState) -> None:
    (finding,) = STUDY_RULES["importance"](study_of(state))
    assert "momentum (with optimizer) " in finding.evidence and ", optimizer " in finding.evidence


@pytest.mark.parametrize(
    ("share", "advice"),
    [(0.5, "; fix b, which hardly matters "), (0.01, "; fix a, b, which hardly matter ")],
)
def test_what_hardly_matters_is_told_in_words_that_fit(
    state: StudyState, monkeypatch: pytest.MonkeyPatch, share: float, advice: str
) -> None:
    module = sys.modules["scattershot_master.diagnosis.study_rules.importance"]
    monkeypatch.setattr(module, "importances", lambda _: {"lr": 1 - share, "a": share, "b": 0.01})
    (finding,) = STUDY_RULES["importance"](study_of(state))
    assert advice in finding.remedy


@pytest.mark.parametrize("history", [[{}] * 3, [{"val_accuracy": nan, "train_loss": 1.0}] * 3])
@pytest.mark.parametrize("rule", STUDY_RULES)
def test_a_study_without_a_value_has_no_rule_fail(
    rule: str, history: list[dict[str, float]]
) -> None:
    state = small([[0.5]] * 24, kill={"rule": ["median"], "grace": 1, "min_peers": 3})
    for trial in state.trials.values():
        trial.history = [{"epoch": epoch, **line} for epoch, line in enumerate(history, 1)]
        trial.best_value = nan
    assert STUDY_RULES[rule](study_of(state)) == []


def test_accuracies_within_one_error_of_the_best_are_told_to_be_chance(state: StudyState) -> None:
    study = study_of(state)
    assert STUDY_RULES["chance"](study) == []  # how many examples validated is not known
    number, case = next(iter(study.cases.items()))
    study.cases[number] = TrialCase(case.history, [{"epoch": 1, "val_examples": 100}])
    (finding,) = STUDY_RULES["chance"](study)
    assert "100 validation examples" in finding.evidence


def change(state: StudyState, **tables: Any) -> None:
    """Give a study other tables of settings."""
    state.settings = StudySettings({**state.settings.recorded, **tables})


def small(values: list[list[float]], **study: Any) -> StudyState:
    """Return a study of a stage with these accuracies, a trial a line; `study` are its tables."""
    state, epochs = StudyState(), max(map(len, values))
    stage = {"name": "coarse", "trials": len(values), "epochs": epochs}
    change(
        state,
        study={"name": "small", "metric": "val_accuracy"},
        space={"lr": {"uniform": [0.0, 1.0]}, "layers": {"choice": [1, 2]}},
        stage=[stage],
        kill={"rule": [], "grace": 1, "min_peers": 3},
    )
    change(state, **study)
    state.stages = [StageRecord("coarse", 0, len(values), [*range(len(values))])]
    for number, curve in enumerate(values):
        params: dict[str, Value] = {"lr": number / 10, "layers": 1}
        trial = TrialRecord(number, "coarse", params, 0, epochs, epochs, "complete")
        trial.history = [
            {"epoch": epoch, "val_accuracy": value} for epoch, value in enumerate(curve, 1)
        ]
        trial.best_value = state.objective.best(curve)
        state.trials[number] = trial
    return state


def test_all_trials_diverging_is_killer_findings(state: StudyState) -> None:
    study = study_of(state)
    broken = {n: case for n, case in study.cases.items() if case.params["lr"] > 4}
    all_diverged = StudyCase(state, broken, study.findings)
    (finding,) = STUDY_RULES["rates"](all_diverged)
    rates = [case.params["lr"] for case in broken.values()]
    low, high = min(rates), max(rates)
    assert finding.evidence == f"all {len(broken)} trials diverge, at lr {low:.3g} to {high:.3g}"
    # which of them is best says nothing
    assert STUDY_RULES["killers"](study) and not STUDY_RULES["killers"](all_diverged)


def test_updates_that_are_too_large_are_not_taken_for_a_rate_that_is_too_low() -> None:
    state = small([[0.1, 0.5]] * 5)
    losses = [2.0, 1.0, 1.8, 0.9, 1.7, 0.8, 1.6, 0.7]
    history = [{"epoch": e, "train_loss": x, "update_ratio": 0.1} for e, x in enumerate(losses, 1)]
    cases = {n: TrialCase(history, params=t.params) for n, t in state.trials.items()}
    findings = {number: diagnose(case) for number, case in cases.items()}
    assert all(
        "update_ratio" in {finding.rule for finding in in_trial} for in_trial in findings.values()
    )
    assert STUDY_RULES["rates"](StudyCase(state, cases, findings)) == []


def rated(*trials: tuple[float, bool], high: bool = True, space: Any = None) -> list[Finding]:
    """Return what the rule on rates finds in trials of (rate, whether it is bad)."""
    state = small([[0.5]] * len(trials))
    change(state, space=space or {"lr": {"loguniform": [1e-4, 10.0]}})
    rule = "diverged" if high else "slow"
    cases, findings = {}, {}
    for n, (rate, bad) in enumerate(trials):
        cases[n] = TrialCase(
            state.trials[n].history, params=dict.fromkeys(state.settings.space_table, rate)
        )
        findings[n] = [Finding(rule, "", "", "")] * bad
    return STUDY_RULES["rates"](StudyCase(state, cases, findings))


WELL = [(0.001 * n, False) for n in range(1, 9)]


def test_a_lucky_trial_among_many_that_diverge_changes_nothing() -> None:
    broken = [(1.0 + n, n != 4) for n in range(10)]
    (finding,) = rated(*WELL, *broken)
    assert (
        finding.evidence == "9 of 10 trials from lr 1 on diverge; the next one, at 0.008, does not"
    )
    assert finding.remedy == "move the upper bound of lr down, below 1"
    # two are no accident: up to them it is so
    (finding,) = rated(*WELL, *[(1.0 + n, n not in (3, 4)) for n in range(10)])
    assert finding.evidence == "all 5 trials from lr 6 on diverge; the next one, at 5, does not"


def test_trials_at_the_same_rate_are_judged_together() -> None:
    same = [(0.1, True), (0.1, False), (0.1, True), (1.0, True), (1.0, True), (1.0, True)]
    (finding,) = rated(*WELL, *same, space={"lr": {"choice": [0.001, 0.1, 1.0]}})
    assert finding.evidence == "all 3 trials from lr 1 on diverge; at 0.1, 1 of 3 does not"
    assert finding.remedy == "drop the values from lr 1 on"
    (finding,) = rated(*[(rate, True) for rate, _ in same], space={"lr": {"choice": [0.1, 1.0]}})
    assert finding.evidence == "all 6 trials diverge, at lr 0.1 to 1"
    assert finding.remedy == "choose values of lr below 0.1"
    assert rated(*[(0.1, n > 0) for n in range(4)], space={"lr": {"choice": [0.1, 0.2]}}) == []


def test_rates_that_are_too_slow_are_told_in_words_that_fit() -> None:
    slow = [(1e-4 * n, True) for n in range(1, 5)]
    (finding,) = rated(*slow, *WELL, high=False)
    assert (
        finding.evidence
        == "all 4 trials up to lr 0.0004 are too slow; the next one, at 0.001, is not"
    )
    (finding,) = rated(*slow, *WELL[:1] * 2, high=False)
    assert finding.evidence.endswith("at 0.001, 2 of 2 are not")


def test_a_rate_that_is_no_number_is_left_alone() -> None:
    state = small([[0.5]] * 4)
    change(state, space={"lr": {"choice": ["low", "high"]}})
    for trial in state.trials.values():
        trial.params = {"lr": "high"}
    assert STUDY_RULES["rates"](study_of(state)) == []


def test_rates_that_look_the_same_have_more_digits() -> None:
    (finding,) = rated((0.29999, False), (0.30001, True), (1.0, True), (2.0, True))
    assert "from lr 0.30001 on diverge; the next one, at 0.29999, does not" in finding.evidence


def test_every_learning_rate_is_looked_at_and_chance_is_told_from_cause() -> None:
    space = {name: {"loguniform": [1e-4, 10.0]} for name in ("head_lr", "body_lr", "momentum")}
    broken = [(1.0 + n, True) for n in range(6)]
    assert [finding.remedy.split()[5] for finding in rated(*WELL, *broken, space=space)] == [
        "head_lr",
        "body_lr",
    ]
    # that three of five lie at the end is chance in 10 of 100
    assert rated(*WELL[:2], *broken[:3], space=space) == []
    assert len(rated(*broken, space=space)) == 1  # one of them is to blame, or both


def chance_in(state: StudyState, examples: int = 0) -> list[Finding]:
    line = [{"epoch": 1, "val_examples": examples}]
    cases = {n: TrialCase(trial.history, line) for n, trial in state.trials.items()}
    return STUDY_RULES["chance"](StudyCase(state, cases, {}))


def alike(state: StudyState, *numbers: int, **what: Value) -> None:
    """Give trials the hyperparameters of trial 0, but for `what`."""
    for number in numbers:
        state.trials[number].params = {**state.trials[0].params, **what}


GOOD = [[0.90], [0.85], [0.88], [0.70], [0.5], [0.4]]


def test_the_larger_of_validation_error_and_spread_of_near_identical_trials_is_the_noise() -> None:
    state = small(GOOD)
    assert chance_in(state) == []  # nothing is known of the noise
    assert chance_in(state, 10_000) == []  # 0.003
    alike(state, 1, 2, lr=0.01)
    for examples in (0, 10_000):  # 0.0252 is the deviation of 0.90, 0.85 and 0.88
        (finding,) = chance_in(state, examples)
        assert finding.evidence.startswith("2 of 6 trials lie within 0.0252 of the best")
        assert "3 trials that differ by little but their seeds (0, 1, 2)" in finding.evidence
    (finding,) = chance_in(state, 25)  # 0.06
    assert finding.evidence.startswith("3 of 6 trials lie within 0.06 of the best")
    assert "0.0252" in finding.evidence


def test_an_accuracy_in_percent_has_its_error_in_percent() -> None:
    (finding,) = chance_in(small([[100 * value for value in line] for line in GOOD]), 25)
    assert finding.evidence.startswith(
        "3 of 6 trials lie within 6 of the best val_accuracy, 90: 6 is"
    )


def test_trials_of_other_hyperparameters_or_age_are_not_near_identical() -> None:
    for what in ({"lr": 0.015}, {"layers": 2}):
        state = small(GOOD)
        alike(state, 1, 2, **what)
        assert chance_in(state) == []
    alike(state, 1, 2)
    assert chance_in(state)
    state.trials[1].history.append({"epoch": 2, "val_accuracy": 0.8})
    assert chance_in(state) == []


def test_rates_a_tenth_apart_are_not_near_identical_in_however_many_decades() -> None:
    state = small(GOOD)
    change(state, space={"lr": {"loguniform": [1e-12, 1.0]}, "layers": {"choice": [1, 2]}})
    for trial in state.trials.values():
        trial.params["lr"] = 10.0 ** (-4 - trial.number)
    alike(state, 1, 2, lr=1.04e-4)
    assert chance_in(state)
    alike(state, 1, 2, lr=1.1e-4)
    assert chance_in(state) == []


def test_two_trials_or_equal_values_tell_no_noise() -> None:
    state = small(GOOD)
    alike(state, 1)
    assert chance_in(state) == []
    state = small([[0.9], [0.9], [0.9], [0.7], [0.5], [0.4]])
    alike(state, 1, 2)
    assert chance_in(state) == []


def test_only_trials_near_the_best_tell_the_noise() -> None:
    state = small([[0.95], [0.6], [0.7], [0.8], [0.9], [0.4], [0.3], [0.2]])
    for number in (2, 3):
        state.trials[number].params = dict(state.trials[1].params)
    assert chance_in(state) == []


def test_the_spread_tells_the_noise_of_a_metric_that_is_minimized() -> None:
    about = {"name": "small", "metric": "val_loss", "goal": "minimize"}
    state = small([[0.10], [0.15], [0.12], [0.5], [0.6], [0.7]], study=about)
    assert chance_in(state, 25) == []  # binomial is the error of an accuracy
    alike(state, 1, 2)
    (finding,) = chance_in(state, 25)
    assert finding.evidence.startswith("2 of 6 trials lie within 0.0252 of the best val_loss, 0.1")


def test_a_killer_that_would_have_killed_a_late_winner_is_found() -> None:
    late = [[0.1, 0.2, 0.99], *[[0.5 + n / 100] * 3 for n in range(7)]]
    state = small(late, kill={"rule": ["median"], "grace": 1, "min_peers": 3})
    (finding,) = STUDY_RULES["killed_winner"](study_of(state))
    assert "best trial, 0, would have been killed at epoch 1 of stage coarse" in finding.evidence
    assert finding.evidence.endswith("the best value would have been 0.56 instead of 0.99")
    assert "grace above 1" in finding.remedy
    change(state, kill={"rule": ["median"], "grace": 3, "min_peers": 3})
    assert STUDY_RULES["killed_winner"](study_of(state)) == []


LATE = [[0.1, 0.2, 0.3, 0.99], *[[0.5 + n / 100] * 4 for n in range(7)]]
#: The best value comes first, and all others pass where it goes.
EARLY = [[0.9, 0.1, 0.1, 0.1], *[[0.5 + n / 100] * 4 for n in range(7)]]
MEDIAN: dict[str, Any] = {"rule": ["median"], "grace": 1, "min_peers": 3}


def killer_findings(state: StudyState, examples: int = 0) -> list[Finding]:
    """Return the findings of the rules on killers, given the number of validation examples."""
    cases = {n: TrialCase(t.history, [layer(examples)]) for n, t in state.trials.items()}
    study = StudyCase(state, cases, {})
    rules = ("killed_winner", "killers")
    return [finding for rule in rules for finding in STUDY_RULES[rule](study)]


def layer(examples: int) -> dict[str, int]:
    return {"epoch": 1, "val_examples": examples}


def test_a_kill_after_the_best_epoch_does_no_harm() -> None:
    # its loss explodes where its value is no longer the best
    state = small(EARLY, kill={"rule": ["diverged"], "grace": 1, "factor": 2.0})
    for line, loss in zip(state.trials[0].history, [1.0, 99.0, 99.0, 99.0], strict=True):
        line["val_loss"] = loss
    (finding,) = killer_findings(state)
    assert "would have been killed" not in finding.evidence
    state.trials[0].history[3]["val_accuracy"] = state.trials[0].best_value = 0.95
    assert killer_findings(state)[0].rule == "killed_winner"  # it would have come back


@pytest.mark.parametrize("examples", [0, 100])
def test_where_another_is_as_good_or_within_the_noise_no_harm_is_done(examples: int) -> None:
    state = small([*LATE, [0.6, 0.7, 0.7, 0.985 if examples else 0.99]], kill=MEDIAN)
    assert [finding.rule for finding in killer_findings(state, examples)] == ["killers"]
    assert "would have been killed" not in killer_findings(state, examples)[0].evidence
    if examples:
        assert [finding.rule for finding in killer_findings(state)] == ["killed_winner", "killers"]


def test_a_winner_that_was_killed_at_its_best_is_told_by_the_record() -> None:
    state = small([[0.9], *[[0.5] * 4] * 7], kill=MEDIAN)
    winner = state.trials[0]
    winner.state, winner.best_epoch, winner.reason = "killed", 1, "asked for by hand"
    assert STUDY_RULES["killed_winner"](study_of(state)) == []
    winner.reason = "median rule: best 0.9 by epoch 1"
    (finding,) = STUDY_RULES["killed_winner"](study_of(state))
    assert finding.evidence.startswith("the best trial, 0, was killed at epoch 1 of stage coarse")
    winner.history.append({"epoch": 2, "val_accuracy": 0.4})
    assert STUDY_RULES["killed_winner"](study_of(state)) == []


def test_fewer_than_eight_trials_say_nothing_of_killers() -> None:
    assert killer_findings(small(LATE, kill=MEDIAN))
    assert not killer_findings(small(LATE[:7], kill=MEDIAN))


def test_a_study_judges_one_trial_after_the_other_so_the_first_ones_save_nothing() -> None:
    state = small([[0.9 - n / 100] * 4 for n in range(8)], kill=MEDIAN | {"rule": []})
    (finding,) = killer_findings(state)
    # the fourth to the eighth have three peers, all of them better: 5 of 8 end at epoch 1 of 4
    assert "median (47%)" in finding.evidence
    worst_first = small([[0.1 + n / 100] * 4 for n in range(8)], kill=MEDIAN | {"rule": []})
    assert "median (" not in killer_findings(worst_first)[0].evidence
    median = build(["median"], MEDIAN)
    assert replay(worst_first, {0: median}).saved == 16  # with all peers there


@pytest.mark.parametrize("own", [[], ["diverged"], ["patience", "median"]])
def test_every_built_in_killer_is_replayed_whatever_the_study_used(own: list[str]) -> None:
    state = small(LATE, kill={"rule": own, "grace": 1, "min_peers": 3, "patience": 2})
    (finding,) = STUDY_RULES["killers"](study_of(state))
    killed, _, spared = finding.evidence.partition("; ")
    for rule in ("halving", "sync_halving", "median", "percentile"):
        assert f" {rule} (epoch 1 of stage coarse)" in killed
    assert killed.startswith("the best trial, 0, would have been killed by halving")
    # seven trials stand still: they end at epoch 3 of 4; 7 of 32 epochs
    assert spared.endswith("by patience (22%)") and 'rule = "patience"' in finding.remedy


def test_a_killer_that_the_study_used_alone_is_not_told_among_the_others() -> None:
    state = small(LATE, kill={"rule": ["median"], "grace": 1, "min_peers": 3})
    (finding,) = STUDY_RULES["killers"](study_of(state))
    assert "median" not in finding.evidence and "percentile" in finding.evidence


def test_no_killer_that_would_have_spared_the_winner_is_no_advice_for_one() -> None:
    state = small(LATE, kill={"rule": [], "grace": 2, "min_peers": 3, "patience": 9})
    (finding,) = STUDY_RULES["killers"](study_of(state))
    assert " halving (epoch 2 of stage coarse)" in finding.evidence
    assert finding.remedy.endswith("grace below 3")


def test_a_minimized_metric_is_replayed_with_its_sign() -> None:
    state = small(
        [[-value for value in line] for line in LATE],
        study={"name": "small", "metric": "val_accuracy", "goal": "minimize"},
        kill={"rule": ["median"], "grace": 1, "min_peers": 3},
    )
    (finding,) = STUDY_RULES["killed_winner"](study_of(state))
    assert "median rule: best -0.1 by epoch 1" in finding.evidence


def test_a_trial_that_goes_on_is_not_judged_again_by_the_epochs_it_has() -> None:
    state = small([[0.1, 0.9, 0.95, 0.99], [0.5, 0.5, 0.5, 0.5], [0.6, 0.6, 0.6, 0.6], [0.7, 0.7]])
    stages = [
        {"name": "coarse", "trials": 4, "epochs": 2},
        {"name": "final", "continue": 3, "epochs": 4, "kill": ["median"]},
    ]
    change(state, stage=stages)
    state.stages.append(StageRecord("final", 1, 3, [0, 1, 2]))
    median = build(["median"], {"min_peers": 1})
    assert 0 not in replay(state, {0: [], 1: median}).killed
    assert replay(state, {0: median, 1: []}).killed[0].stage == "coarse"
    # three are there at epoch 3; of the fourth epochs two are saved
    result = replay(state, {0: [], 1: median})
    assert {number: kill.epoch for number, kill in result.killed.items()} == {1: 3, 2: 3}
    assert (result.trained, result.saved) == (4 * 2 + 3 * 2, 2)


def sized(rows: int, *losses: float) -> TrialCase:
    """Return a trial whose model has 8 times `rows` weights, with these validation losses."""
    shapes = [{"name": "0.weight", "shape": [rows, 8], "grad_rms": 0.1}]
    history = [
        {"epoch": epoch, "train_loss": loss, "val_loss": loss}
        for epoch, loss in enumerate(losses, 1)
    ]
    return TrialCase(history, [{"epoch": 1, "parameters": shapes}])


SMALL = [2.3, 1.6, 1.5, 1.45, 1.44, 1.44]


@pytest.mark.parametrize(
    ("rows", "losses", "fires"),
    [
        (16, SMALL, False),  # twice the size is as good: the rest is noise
        (12, SMALL, True),  # not large enough to tell
        (16, [2.3, 1.0, 0.8, 0.7, 0.6, 0.6], True),  # it is better
        (16, [2.3, 2.3, 2.3, 2.3, 2.3, 2.3], True),  # it did not learn
    ],
)
def test_a_model_is_not_too_small_where_larger_ones_come_no_further(
    rows: int, losses: list[float], fires: bool
) -> None:
    case, other = sized(8, *SMALL), sized(rows, *losses)
    assert "underfitting" in {finding.rule for finding in diagnose(case)}
    findings = diagnose_among(case, {0: case, 1: other})
    assert ("underfitting" in {finding.rule for finding in findings}) is fires


def test_a_run_whose_trials_have_no_value_ends_with_a_diagnosis_all_the_same(
    tmp_path: Path,
) -> None:
    state = small([[nan, nan]] * 3)
    state.begun = 0.0
    for trial in state.trials.values():
        trial.best_value = nan
        for line in trial.history:
            line["train_loss"] = nan
    shown = plain_text(pages.final(state, tmp_path))
    assert "trial 0; no trial has a value: diverged the loss was nan at epoch 1" in shown
    for trial in state.trials.values():
        trial.history = []
    assert "diagnosis" not in plain_text(pages.final(state, tmp_path))
