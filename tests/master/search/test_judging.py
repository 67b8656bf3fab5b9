import math
from collections.abc import Sequence
from typing import Any

import pytest

from scattershot_master.killers.make_killers import stage_killers
from scattershot_master.search.controller import Judge
from scattershot_master.state.study_state import StudyState
from support.pretend_master import study_file
from support.synthetic_study import event


class Scene:
    """A stage of trials to 9 epochs, judged report by report."""

    def __init__(self, trials: int = 8, goal: str = "maximize", **kill: Any) -> None:
        study = study_file(
            study={"name": "judged", "task": "digits", "goal": goal},
            stage=[{"name": "coarse", "trials": trials, "epochs": 9}],
            kill=kill,
        )
        self.state = StudyState()
        dumped = study.model_dump(mode="json", by_alias=True)
        self.state.apply(event("study", study=dumped, uid="u", at=1.0))
        stage = {"stage": "coarse", "index": 0, "target": trials, "box": []}
        self.state.apply(event("stage", at=1.0, **stage))
        for number in range(trials):
            sampled = {"t": number, "p": {}, "epochs": 9, "until": 9}
            self.state.apply(event("sampled", at=1.0, **sampled))
        self.killers = stage_killers(self.state.settings, 0)
        self.judge = Judge(self.state, self.state.stages[0], self.killers)

    def report(self, number: int, value: float, **more: float) -> None:
        epoch = self.state.trials[number].done + 1
        metrics = {"val_accuracy": value, **more}
        self.state.apply(event("report", t=number, a=1, n=epoch, m=metrics))

    def verdicts(self, number: int, values: Sequence[float]) -> list[str]:
        found = []
        for value in values:
            self.report(number, value)
            found.append(self.judge.verdict(self.state.trials[number]))
        return found

    def again(self) -> None:
        """Judge on as a master that was started again."""
        self.judge = Judge(self.state, self.state.stages[0], self.killers)


def test_nobody_is_killed_without_a_rule() -> None:
    assert Scene(rule="none").verdicts(0, [math.nan] * 9) == [""] * 9


def test_a_trial_is_killed_by_its_own_curve() -> None:
    scene = Scene(rule="diverged")
    assert scene.verdicts(0, [0.5, 0.6, math.nan])[:2] == ["", ""]
    reason = scene.judge.verdict(scene.state.trials[0])
    assert reason == "diverged rule: its metric is nan at epoch 3"


@pytest.mark.parametrize("restart", [False, True])
def test_a_trial_is_killed_by_its_peers_of_the_stage(restart: bool) -> None:
    scene = Scene(rule="median", min_peers=3)
    for number, value in enumerate([0.6, 0.7, 0.8]):
        assert scene.verdicts(number, [value]) == [""]
    if restart:
        scene.again()
    assert scene.verdicts(3, [0.7]) == [""]
    (reason,) = scene.verdicts(4, [0.1])
    assert reason.startswith("median rule: best 0.1 by epoch 1 is worse than 0.7")


def test_judging_a_report_again_after_a_restart_says_the_same() -> None:
    scene = Scene(rule="median", min_peers=3)
    for number, value in enumerate([0.6, 0.7, 0.8, 0.1]):
        (said,) = scene.verdicts(number, [value])
    scene.again()
    assert scene.judge.verdict(scene.state.trials[3]) == said != ""


def test_smaller_is_better_where_the_goal_is_to_minimize() -> None:
    scene = Scene(goal="minimize", rule="median", min_peers=3)
    for number, value in enumerate([0.6, 0.7, 0.8]):
        assert scene.verdicts(number, [value]) == [""]
    assert scene.verdicts(3, [0.1]) == [""]
    (reason,) = scene.verdicts(4, [2.5])
    assert reason.startswith("median rule: best 2.5 by epoch 1 is worse than 0.65")


def test_the_loss_that_is_judged_is_the_training_loss_else_the_validation_loss() -> None:
    scene = Scene(rule="diverged", factor=10.0)
    for losses in ({"train_loss": 2.0, "val_loss": 99.0}, {"train_loss": 2.0, "val_loss": 9e9}):
        scene.report(0, 0.5, **losses)
        assert scene.judge.verdict(scene.state.trials[0]) == ""
    scene.report(1, 0.5, val_loss=2.0)
    assert scene.judge.verdict(scene.state.trials[1]) == ""
    scene.report(1, 0.5, val_loss=99.0)
    assert "loss 99 is above 20" in scene.judge.verdict(scene.state.trials[1])


def test_a_metric_that_was_not_reported_is_no_number() -> None:
    scene = Scene(rule="diverged")
    scene.state.apply(event("report", t=0, a=1, n=1, m={"other": 1.0}))
    assert "its metric is nan" in scene.judge.verdict(scene.state.trials[0])


def test_the_last_epoch_of_the_budget_is_never_judged() -> None:
    assert Scene(rule="diverged", grace=9).verdicts(0, [math.nan] * 9) == [""] * 9


def test_a_continued_trial_brings_its_history_to_its_peers() -> None:
    scene = Scene(trials=2, rule="median", min_peers=1)
    for number, value in enumerate([0.9, 0.5]):
        scene.verdicts(number, [value] * 3)
    scene.again()
    scene.report(0, 0.9)
    assert scene.judge.verdict(scene.state.trials[0]) == ""
    scene.report(1, 0.5)
    assert scene.judge.verdict(scene.state.trials[1]).startswith("median rule")
