"""The six steps of a recipe: what each looks at, decides, and adds to the page.

CS231n, lecture "Training Neural Networks II": initial loss, overfit a small sample, find the rate,
coarse, fine, curves. The first three are checks, the rest a study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from scattershot_common.space.space import Box
from scattershot_common.store.store import Store
from scattershot_common.study.settings import StudyFile
from scattershot_common.task.check_result import CheckResult
from scattershot_master import text
from scattershot_master.diagnosis.diagnose import diagnose
from scattershot_master.diagnosis.read_cases import read_trial_case
from scattershot_master.diagnosis.trial_case import Finding
from scattershot_master.figures import charts
from scattershot_master.recipe.plan import BEST, REFINE, TrainingLength, training_length
from scattershot_master.search.refine import Narrowing, refine
from scattershot_master.show import tables
from scattershot_master.state.border_warnings import border_warnings
from scattershot_master.state.progress import finite
from scattershot_master.state.study_state import StudyState, TrialRecord

#: The first three steps: title, question, and the checks that answer it.
CHECK_STEPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
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


@dataclass
class RecipeStep:
    """One step: its question, what was observed, the decision that follows, and charts (SVG).

    `stopped`: the recipe ends with this step.
    """

    title: str
    question: str
    checks: list[CheckResult] = field(default_factory=list)
    observations: list[str] = field(default_factory=list)
    decision: str = ""
    stopped: bool = False
    charts: list[str] = field(default_factory=list)

    def stop(self, reason: str) -> None:
        """Make this the last step."""
        self.stopped, self.decision = True, f"Stop: {reason}"


def add_checks(step: RecipeStep, results: Sequence[CheckResult], setting: str = "") -> None:
    """Add the results of checks to a step, which stops where one failed.

    `setting` is what they were run with, where that differs: "optimizer = sgd".
    """
    if setting:
        results = [replace(result, found=f"with {setting}: {result.found}") for result in results]
    step.checks += results
    failed = [result for result in results if result.status == "fail"]
    if failed:
        step.stop(f"{failed[0].meaning} {failed[0].remedy}")
    for result in results:
        if result.name == "overfit" and result.numbers.get("losses"):
            step.charts.append(charts.overfit_chart(result.numbers))
        elif result.name == "learning" and result.numbers.get("losses"):
            step.charts.append(charts.learning_chart(result.numbers))
        elif result.name == "rates" and result.numbers.get("rates"):
            title = "Learning-rate range test" + (f" with {setting}" if setting else "")
            step.charts.append(charts.lr_range_chart(result.numbers, title))


def suggested_rates(results: Sequence[CheckResult]) -> tuple[float, float] | None:
    """Return the range that holds what every range test suggests, None where none suggests any."""
    ranges = [result.numbers["suggested"] for result in results if result.numbers.get("suggested")]
    if not ranges:
        return None
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def add_stage(step: RecipeStep, state: StudyState, index: int) -> None:
    """Add a stage of the search to a step: its trials, its best, a chart per hyperparameter."""
    stage = state.stages[index]
    trials = [state.trials[number] for number in stage.trials]
    best = finite(state, trials)
    if not best:
        reasons = sorted({trial.reason for trial in trials if trial.reason})
        step.stop(f"no trial has a value. {text.one_line('; '.join(reasons[:2]))}")
        return
    killed = sum(trial.state == "killed" for trial in trials)
    failed = sum(trial.state == "failed" for trial in trials)
    step.observations.append(
        f"{text.plural(len(trials), 'trial')}, {killed} killed, {failed} failed; the best is "
        f"trial {best[0].number} with {state.objective.metric} {text.metric(best[0].best_value)}: "
        + tables.params(best[0].params)
    )
    stages = {
        record.name: [state.trials[number] for number in record.trials]
        for record in state.stages[: index + 1]
    }
    step.charts += [
        charts.value_chart(axis, stages, state.objective.metric)
        for axis in state.settings.space.axes
        if axis.kind != "choice"
    ]


def narrow(state: StudyState) -> Narrowing:
    """Return the box around the best of the fine stage, as a further stage would draw from."""
    space = state.settings.space
    fine = state.stages[-1]
    trials = finite(state, [state.trials[number] for number in fine.trials])
    box = Box.from_json(fine.box) if fine.box is not None else space.whole()
    if len(trials) < 2:
        return Narrowing(box, ())
    return refine(space, box, [trial.params for trial in trials], REFINE)


def add_curves(
    step: RecipeStep, state: StudyState, study: StudyFile, checkpoints: Store
) -> TrainingLength:
    """Add the curves of the best trials of the fine stage, and the findings in them, to a step.

    `checkpoints` holds the study's trials. Returns for how long to train.
    """
    fine = state.stages[-1]
    best = finite(state, [state.trials[number] for number in fine.trials])[:BEST]
    epochs = study.stages[-1].epochs
    length = training_length([trial.history for trial in best], state.objective, epochs)
    step.observations += [
        f"{length.reason[0].upper()}{length.reason[1:]}.",
        *_diagnosed(state, best, checkpoints),
    ]
    step.observations += [f"Border: {warning}." for warning in border_warnings(state)]
    step.charts += charts.learning_curves(best, state.objective.metric) if best else []
    step.decision = length.decision
    return length


def _diagnosed(state: StudyState, best: Sequence[TrialRecord], checkpoints: Store) -> list[str]:
    """Return a line for every rule that finds something in the trials, as of the best of them."""
    findings: dict[str, Finding] = {}
    trials: dict[str, list[int]] = {}
    for trial in best:
        for finding in diagnose(read_trial_case(state, trial, checkpoints)):
            findings.setdefault(finding.rule, finding)
            trials.setdefault(finding.rule, []).append(trial.number)
    return [
        f"{rule.replace('_', ' ').capitalize()} ({text.trial_numbers(trials[rule])}): "
        f"{finding.evidence}; {finding.remedy}."
        for rule, finding in findings.items()
    ]
