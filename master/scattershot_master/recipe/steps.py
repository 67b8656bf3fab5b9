"""Owns the six steps of a recipe: what each looks at, decides, and leaves on the page.

CS231n, lecture "Training Neural Networks II": initial loss, overfit a small sample, find the rate,
coarse, fine, curves. The first three are checks, the rest a study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from scattershot_common.space.space import Box
from scattershot_common.store.location import Location
from scattershot_common.study.settings import StudyFile
from scattershot_common.task.check_result import CheckResult
from scattershot_master import text
from scattershot_master.diagnosis.diagnose import diagnose
from scattershot_master.diagnosis.read_cases import read_trial_case
from scattershot_master.diagnosis.trial_case import Finding
from scattershot_master.figures import recipe
from scattershot_master.figures.lr_range import rates_chart
from scattershot_master.recipe import curves
from scattershot_master.recipe.html import Step
from scattershot_master.recipe.plan import REFINE
from scattershot_master.search.refine import Narrowing, refine
from scattershot_master.state.border_warnings import border_warnings
from scattershot_master.state.ranking import finite
from scattershot_master.state.study_state import StudyState, TrialRecord

#: The first three steps: title, question, and the checks that answer it.
CHECKED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "Initial loss",
        "Is the data sound, and the loss of fresh weights at chance?",
        ("data", "initial_loss", "regularization", "options"),
    ),
    (
        "Overfit a small sample",
        "Can the network learn twenty examples by heart? If not, nothing else is worth trying.",
        ("gradients", "overfit"),
    ),
    (
        "Find the learning rate",
        "At which rates does the loss on all the data go down?",
        ("learning", "rates"),
    ),
)


def checked(step: Step, results: Sequence[CheckResult], about: str = "") -> Step:
    """Take the results of a step's checks into it; the page explains why it stops, if it does.

    `about` is what they were run with, where that differs: "optimizer = sgd".
    """
    if about:
        results = [replace(result, found=f"with {about}: {result.found}") for result in results]
    step.checks += results
    failed = [result for result in results if result.status == "fail"]
    if failed:
        step.outcome = "stopped"
        step.decided = f"Stop: {failed[0].meaning} {failed[0].remedy}"
    for result in results:
        if result.name == "overfit" and result.numbers.get("losses"):
            step.charts.append(recipe.overfit_chart(result.numbers))
        elif result.name == "learning" and result.numbers.get("losses"):
            step.charts.append(recipe.learning_chart(result.numbers))
        elif result.name == "rates" and result.numbers.get("rates"):
            title = "Learning-rate range test" + (f" with {about}" if about else "")
            step.charts.append(rates_chart(result.numbers, title))
    return step


def rates_from(swept: Sequence[CheckResult]) -> tuple[float, float] | None:
    """Return the range that holds what every sweep suggests, None where none suggests any."""
    ranges = [one.numbers["suggested"] for one in swept if one.numbers.get("suggested")]
    if not ranges:
        return None
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def stage_step(step: Step, state: StudyState, index: int) -> Step:
    """Tell of a stage of the search: its trials, its best, each hyperparameter's picture."""
    stage = state.stages[index]
    trials = [state.trials[number] for number in stage.trials]
    best = finite(state, trials)
    if not best:
        step.outcome = "stopped"
        reasons = sorted({trial.reason for trial in trials if trial.reason})
        step.decided = f"Stop: no trial has a value. {text.one_line('; '.join(reasons[:2]))}"
        return step
    killed = sum(trial.state == "killed" for trial in trials)
    failed = sum(trial.state == "failed" for trial in trials)
    step.found.append(
        f"{text.plural(len(trials), 'trial')}, {killed} killed, {failed} failed; the best is "
        f"trial {best[0].number} with {state.metric} {text.metric(best[0].best_value)}: "
        + _params(best[0].params)
    )
    shown = {one.name: [state.trials[n] for n in one.trials] for one in state.stages[: index + 1]}
    step.charts += [
        recipe.scatter(axis, shown, state.metric)
        for axis in state.settings.space.axes
        if axis.kind != "choice"
    ]
    return step


def narrowed_to(state: StudyState) -> Narrowing:
    """Return the box around the best of the fine stage, as a further stage would draw from."""
    space = state.settings.space
    fine = state.stages[-1]
    drawn = finite(state, [state.trials[number] for number in fine.trials])
    box = Box.from_json(fine.box) if fine.box is not None else space.whole()
    if len(drawn) < 2:
        return Narrowing(box, ())
    return refine(space, box, [trial.params for trial in drawn], REFINE)


def curves_step(
    step: Step, state: StudyState, study: StudyFile, place: Location
) -> tuple[Step, curves.Reading]:
    """Read the curves of the best trials of the fine stage, and have them diagnosed.

    `place` is where the study's trials are.
    """
    fine = state.stages[-1]
    best = finite(state, [state.trials[number] for number in fine.trials])[: curves.BEST]
    epochs = study.stages[-1].epochs
    reading = curves.read([trial.history for trial in best], state.metric, state.sign, epochs)
    step.found += [
        f"{reading.found[0].upper()}{reading.found[1:]}.",
        *_diagnosed(state, best, place),
    ]
    step.found += [f"Border: {warning}." for warning in border_warnings(state)]
    step.charts += recipe.curves_of(best, state.metric) if best else []
    step.decided = reading.decision
    return step, reading


def _diagnosed(state: StudyState, best: Sequence[TrialRecord], place: Location) -> list[str]:
    """Return a line for every rule that finds something in the trials, as of the best of them."""
    findings: dict[str, Finding] = {}
    trials: dict[str, list[int]] = {}
    for trial in best:
        for finding in diagnose(read_trial_case(state, trial, place)):
            findings.setdefault(finding.rule, finding)
            trials.setdefault(finding.rule, []).append(trial.number)
    return [
        f"{rule.replace('_', ' ').capitalize()} ({text.trial_numbers(trials[rule])}): "
        f"{finding.evidence}; {finding.remedy}."
        for rule, finding in findings.items()
    ]


def _params(params: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )
