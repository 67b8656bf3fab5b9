from __future__ import annotations

import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from scattershot_common.objective import Objective
from scattershot_common.space.space import Box, Space
from scattershot_common.store.local import LocalStore
from scattershot_common.study.settings import StudyFile
from scattershot_common.study.study_file import parse
from scattershot_common.task.check_result import CheckResult
from scattershot_master.recipe import plan, steps
from scattershot_master.recipe.page import WrittenFile, recipe_page
from scattershot_master.recipe.steps import RecipeStep
from scattershot_master.recipe.study_text import study_text
from scattershot_master.state import events
from scattershot_master.state.study_state import StudyState
from support.synthetic_study import event

STUDY = """\
[study]
name = "s"
task = "digits"
metric = "val_loss"
goal = "minimize"
seed = 3
[space]
lr = { loguniform = [1e-6, 10], widen = [1e-7, 100] }
optimizer = { choice = ["sgd", "adamw"] }
momentum = { uniform = [0.5, 0.99], when = { optimizer = "sgd" } }
layers = { integer = [1, 4] }
batch_size = 32
[[stage]]
name = "look"
trials = 20
epochs = 2
[checkpoints]
keep = 7
"""
REFINED = """\
[[stage]]
name = "closer"
refine = 0.5
trials = 6
epochs = 5
"""


def study(text: str = STUDY) -> StudyFile:
    return parse(text)


# what is searched


def test_the_search_is_coarse_then_fine_over_the_rates_found() -> None:
    searched = parse(study_text(plan.search(study(), (1e-3, 0.5))))
    assert searched.study.name == "s-search"
    assert (searched.study.metric, searched.study.goal, searched.study.seed) == (
        "val_loss", "minimize", 3
    )  # fmt: skip
    assert searched.space_table["lr"] == {"loguniform": [1e-3, 0.5]}
    coarse, fine = searched.stages
    assert (coarse.trials, coarse.epochs) == (20, 2)
    assert (fine.trials, fine.epochs, fine.refine) == (10, 8, 0.25)
    assert searched.checkpoints.keep == 7


def test_the_file_s_own_refined_stage_is_taken() -> None:
    fine = parse(study_text(plan.search(study(STUDY + REFINED), None))).stages[1]
    assert (fine.trials, fine.epochs, fine.refine) == (6, 5, 0.5)


def test_other_sizes_make_another_fine_stage() -> None:
    tables = plan.search(study(STUDY + REFINED), None, trials=8, epochs=1)
    coarse, fine = parse(study_text(tables)).stages
    assert (coarse.trials, coarse.epochs, fine.trials, fine.epochs) == (8, 1, 4, 4)


@pytest.mark.parametrize(
    ("lr", "searched"),
    [
        ("{ loguniform = [1e-3, 1] }", True),
        ("{ uniform = [0.1, 1] }", True),
        ("0.1", False),
        ("{ choice = [0.1, 0.2] }", False),
    ],
)
def test_a_rate_that_the_file_fixes_or_lists_is_kept(lr: str, searched: bool) -> None:
    text = STUDY.replace("{ loguniform = [1e-6, 10], widen = [1e-7, 100] }", lr)
    assert plan.searches_rates(study(text)) == searched


# the file it results in


def test_the_space_is_narrowed_to_the_box() -> None:
    space = study().space
    sides = (((0.5, 0.75),), ((0.0, 0.5),), ((0.2, 0.9),), ((0.25, 0.75),))
    table = plan.narrowed(space, study().space_table, Box(sides))
    assert table == {
        "lr": {"loguniform": [0.0032, 0.18]},
        "optimizer": {"choice": ["sgd"]},
        "momentum": {"uniform": [0.6, 0.94], "when": {"optimizer": "sgd"}},
        "layers": {"integer": [2, 3]},
        "batch_size": 32,
    }
    assert Space.parse(table).names == space.names


def test_what_hangs_on_a_choice_that_is_gone_is_left_out() -> None:
    sides = (((0.5, 0.75),), ((0.5, 1.0),), ((0.2, 0.9),), ((0.25, 0.5),))
    table = plan.narrowed(study().space, study().space_table, Box(sides))
    assert "momentum" not in table
    assert table["layers"] == {"value": 2}
    Space.parse(table)


def test_conditions_keep_the_values_that_are_left_through_several_levels() -> None:
    raw: dict[str, Any] = {
        "a": {"choice": [1, 2, 3]},
        "b": {"uniform": [0.0, 1.0], "step": 0.25, "when": {"a": [1, 2]}},
        "c": {"uniform": [0.0, 1.0], "when": {"b": 0.5}},
        "d": {"uniform": [0.0, 1.0], "when": {"b": 0.0}},
    }
    space = Space.parse(raw)
    sides = (((1 / 3, 2 / 3), (2 / 3, 1.0)), ((0.4, 0.6),), ((0.0, 1.0),), ((0.0, 1.0),))
    table = plan.narrowed(space, raw, Box(sides))
    assert table == {
        "a": {"choice": [2, 3]},
        "b": {"value": 0.5, "when": {"a": 2}},
        "c": {"uniform": [0.0, 1.0], "when": {"b": 0.5}},
    }
    Space.parse(table)


def test_the_resulting_file_is_a_study_that_goes_on_to_finalists() -> None:
    searched = parse(study_text(plan.search(study(), (1e-3, 0.5))))
    tables = plan.result(study(), searched, searched.space.whole(), 16)
    final = parse(study_text(tables, ["Hello."], {"lr": "was wide"}))
    assert final.study.name == "s-recipe" and final.kill.rule == ("halving",)
    assert [(stage.trials, stage.continue_, stage.epochs) for stage in final.stages] == [
        (10, None, 16), (None, 5, 32)
    ]  # fmt: skip


def test_text_numbers_and_lists_are_written_as_toml_reads_them() -> None:
    table = {
        "text": 'a "b" \\ ü\n',
        "small": 1e-300,
        "whole": 3,
        "yes": True,
        "a.b": [1.5, "x", {"c": [False]}],
        "none": None,
    }
    back = tomllib.loads(study_text({"study": table, "stage": [{"n": 1}, {"n": 2}]}))
    assert back["study"] == {key: value for key, value in table.items() if value is not None}
    assert back["stage"] == [{"n": 1}, {"n": 2}]


# the curves


def history(values: list[float]) -> list[dict[str, float]]:
    return [{"epoch": i + 1, "m": value} for i, value in enumerate(values)]


LARGEST, SMALLEST = Objective("m"), Objective("m", "minimize")
RISING, PEAKED, LATE = [1, 2, 3, 4, 5, 6.0], [1, 6, 5, 4, 3, 2.0], [1, 2, 3, 6, 5, 5.0]


@pytest.mark.parametrize(
    ("values", "objective", "epochs", "reason"),
    [
        (RISING, LARGEST, 18, "at their best in the last epoch"),
        (PEAKED, LARGEST, 6, "at their best in the first half"),
        (LATE, LARGEST, 12, "lie between half and the end"),
        ([-value for value in RISING], SMALLEST, 18, "at their best in the last epoch"),
    ],
)
def test_the_best_epochs_tell_how_long_to_train(
    values: list[float], objective: Objective, epochs: int, reason: str
) -> None:
    length = plan.training_length([history(values)] * 3, objective, 6)
    assert length.epochs == epochs and reason in length.reason


def test_most_of_the_curves_must_agree() -> None:
    histories = [history(RISING), history(LATE), history(LATE)]
    assert plan.training_length(histories, LARGEST, 6).epochs == 12


def test_the_best_trials_are_diagnosed_with_evidence_and_remedy(tmp_path: Path) -> None:
    state = StudyState()
    state.apply(event("study", uid="u", at=0.0, study=plan.search(study(), None)))
    state.apply(event("stage", stage="fine", index=0, target=2))
    losses = [1.0, 0.5, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1]
    for number in (0, 1):
        params = {"lr": 0.1, "optimizer": "adamw", "layers": 2}
        state.apply(event("sampled", t=number, p=params, epochs=8, until=8))
        state.apply(event("started", t=number, a=1, w="w", at=1.0))
        for n, loss in enumerate(losses, 1):
            line = {"val_loss": loss, "train_loss": 1 / 2**n}
            state.apply(event("report", t=number, n=n, a=1, m=line))
        state.apply(event("complete", t=number, a=1, at=2.0))
    searched = parse(study_text(plan.search(study(), None)))
    step = RecipeStep("Loss curves", "?")
    length = steps.add_curves(step, state, searched, LocalStore(tmp_path))
    assert any(
        observation.startswith("Overfitting (trials 0, 1): the validation loss rose from 0.5")
        and "regularize more" in observation
        for observation in step.observations
    )
    assert length.epochs == 8 and "first half" in step.observations[0]


def test_trials_that_were_killed_early_say_nothing_of_the_end() -> None:
    killed = history([1, 2.0])
    assert plan.training_length([killed, history(PEAKED)], LARGEST, 6).epochs == 6
    assert plan.training_length([], LARGEST, 6).epochs >= 6


# steps and page


def test_the_range_holds_what_every_sweep_suggests() -> None:
    def tested(**numbers: Any) -> CheckResult:
        return CheckResult("rates", "pass", "", "", numbers=numbers)

    results = [tested(suggested=[1e-3, 0.1]), tested(suggested=[1e-2, 3.0]), tested()]
    assert steps.suggested_rates(results) == (1e-3, 3.0)
    assert steps.suggested_rates([tested()]) is None


def test_a_stage_without_any_value_stops_the_recipe_with_the_reason() -> None:
    state = StudyState()
    for line in [
        {"e": "study", "uid": "u", "at": 0.0, "study": plan.search(study(), None)},
        {"e": "stage", "stage": "coarse", "index": 0, "target": 1},
        {"e": "sampled", "t": 0, "p": {"lr": 0.1}, "epochs": 2, "until": 2},
        {"e": "started", "t": 0, "a": 1, "w": "w", "at": 1.0},
        {"e": "failed", "t": 0, "a": 1, "r": "no disk", "at": 2.0},
    ]:
        state.apply(events.read(line))
    step = RecipeStep("Coarse", "?")
    steps.add_stage(step, state, 0)
    assert step.stopped and "no disk" in step.decision


class PageText(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_has_each_decision_and_needs_nothing_from_elsewhere() -> None:
    result = CheckResult("data", "warn", "found <b>", "meaning", "remedy", ("detail",))
    step = RecipeStep("Initial loss", "Is it?")
    steps.add_checks(step, [result])
    step.decision = "Go on."
    file = WrittenFile(Path("s-recipe.toml"), "[study]\nname = 'x'")
    text = recipe_page("s & co", "a lead", [step], file)
    read = PageText(text)
    shown = "".join(read.texts)
    for part in ("s & co", "1. Initial loss", "found <b>", "detail", "→ remedy", "Go on."):
        assert part in shown
    assert "scattershot run s-recipe.toml" in shown
    assert not {"script", "link", "img"} & {*read.tags}
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


def test_a_check_that_fails_stops_with_its_remedy() -> None:
    result = CheckResult("overfit", "fail", "loss 2", "It cannot.", "Look at it.")
    step = RecipeStep("Overfit", "?")
    steps.add_checks(step, [result])
    assert step.stopped and step.decision == "Stop: It cannot. Look at it."
