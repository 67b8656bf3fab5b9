"""A recipe under way: its steps one after the other, its page, the study file at its end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scattershot_common.errors import ScattershotError, StudyFileError
from scattershot_common.local_files import write
from scattershot_common.study.settings import StudyFile
from scattershot_common.study.study_file import parse
from scattershot_common.task.check_result import CheckResult
from scattershot_common.trial import Value
from scattershot_master.recipe import plan
from scattershot_master.recipe.page import WrittenFile, recipe_page
from scattershot_master.recipe.steps import (
    CHECK_STEPS,
    RecipeStep,
    add_checks,
    add_curves,
    add_stage,
    narrow,
    suggested_rates,
)
from scattershot_master.recipe.study_text import study_text, value_text
from scattershot_master.show import check_page
from scattershot_master.show.terminal import print_page
from scattershot_master.state.ledger import Ledger

#: The first line of every study file that a recipe writes; such a file may be overwritten.
_MARK = "Written by scattershot recipe"
_GO_ON = "Go on."

#: Runs checks by name with hyperparameters, the others being those of the middle of the space.
RunChecks = Callable[[dict[str, Value], list[str]], Iterator[CheckResult]]
#: Runs a study, given its settings and its file's text, to its end; returns its closed ledger.
RunSearch = Callable[[StudyFile, str], Ledger]


def check_target(target: Path) -> None:
    """Raise StudyFileError unless a recipe may write the study file `target`."""
    try:
        writable = not target.exists() or target.read_text("utf-8").startswith(f"# {_MARK}")
    except (OSError, UnicodeDecodeError):
        writable = False
    if not writable:
        raise StudyFileError(f"{target} is there, and not from a recipe: name another with --write")
    if not target.parent.is_dir():
        raise StudyFileError(f"{target}: there is no folder {target.parent}")


@dataclass
class RecipeRun:
    """One recipe; every step is added to its page as it ends.

    `file` is the study file it starts from, `target` the one it writes, `page` the HTML file.
    """

    study: StudyFile
    file: Path
    target: Path
    page: Path
    run_checks: RunChecks
    run_search: RunSearch
    steps: list[RecipeStep] = field(default_factory=list)

    def run(self, trials: int | None, epochs: int | None) -> None:
        """Take all steps; `trials` and `epochs` are those of the coarse stage, if given.

        Raises:
            ScattershotError: a step fails.
        """
        self._check()
        rates = self._find_rates()
        ledger, searched = self._search(rates, trials, epochs)
        self._conclude(ledger, searched)

    def _check(self) -> None:
        """Take the first three steps, whose checks run in one process."""
        results = self.run_checks({}, [name for _, _, names in CHECK_STEPS for name in names])
        for title, question, names in CHECK_STEPS:
            self._begin(title, question)
            done: list[CheckResult] = []
            for result in results:
                done.append(self._print_result(result))
                if result.name in (names[-1], "task") or result.status == "fail":
                    break
            self._end_checks(done)

    def _find_rates(self) -> tuple[float, float] | None:
        """Repeat the range test for every other optimizer; return the range to search."""
        tests = [next(result for result in self.steps[-1].checks if result.name == "rates")]
        if not plan.searches_rates(self.study):
            self._decide("The study file fixes lr, or lists its values: they are kept.")
            return None
        for optimizer in self._other_optimizers():
            print(f"\nand with optimizer = {optimizer}")
            (result,) = self.run_checks({"optimizer": optimizer}, ["rates"])
            tests.append(self._print_result(result))
            self._end_checks([result], setting=f"optimizer = {optimizer}")
        rates = suggested_rates(tests)
        if rates is None:
            self.steps[-1].stop("there is no learning rate at which the loss clearly falls.")
            self._decide(self.steps[-1].decision)
        else:
            self._decide(f"Search lr = {{ loguniform = [{rates[0]:g}, {rates[1]:g}] }}.")
        return rates

    def _other_optimizers(self) -> list[Value]:
        """Return the optimizers searched besides the one that was checked first."""
        from scattershot_master.launch.check_process import middle

        axis = next((axis for axis in self.study.space.axes if axis.name == "optimizer"), None)
        first = middle(self.study.space, {}).get("optimizer")
        return [optimizer for optimizer in axis.choices if optimizer != first] if axis else []

    def _search(
        self, rates: tuple[float, float] | None, trials: int | None, epochs: int | None
    ) -> tuple[Ledger, StudyFile]:
        """Search, coarse and then fine; return the closed ledger and the study searched."""
        tables = plan.search(self.study, rates, trials=trials, epochs=epochs)
        text = study_text(tables, [f"{_MARK}: what it searched."])
        searched = parse(text, str(self.file), self.file.parent)
        self._print_title("Search coarse, then fine")
        ledger = self.run_search(searched, text)
        state = ledger.state
        questions = ("where is it worth looking?", "where exactly?")
        for index, (stage, question) in enumerate(zip(searched.stages, questions, strict=True)):
            size = f"{stage.trials} trials of {stage.epochs} epochs"
            step = self._begin(stage.name.capitalize(), f"{size}: {question}")
            add_stage(step, state, index)
            self._print_observations()
            notes = state.stages[1].notes if len(state.stages) > 1 and not index else []
            self._decide(step.decision or "; ".join(notes) or _GO_ON)
        return ledger, searched

    def _conclude(self, ledger: Ledger, searched: StudyFile) -> None:
        """Read the curves, write the study file, and finish the page."""
        state = ledger.state
        narrowing = narrow(state)
        self.steps[-1].decision = "; ".join(narrowing.notes) or "Keep the ranges."
        step = self._begin("Loss curves", "What do the curves of the best trials say?")
        length = add_curves(step, state, searched, state.checkpoints(ledger.folder))
        self._print_observations()
        self._decide(length.decision)
        tables = plan.result(self.study, searched, narrowing.box, length.epochs)
        head = [
            f"{_MARK}, from {self.file.name}. It will overwrite this file if run again.",
            f"Why each line is as it is: {self.page}",
        ]
        text = study_text(tables, head, self._notes(tables["space"]))
        parse(text, str(self.target), self.target.parent)
        write(self.target, text.encode(), sync=True)
        self._write_page(WrittenFile(self.target, text))
        print(f"\nstudy file  {self.target}\npage        {self.page}")
        print(f"To run it:  scattershot run {self.target}")

    def _notes(self, space: dict[str, Any]) -> dict[str, str]:
        """Return what every dimension that has changed was before."""
        before = self.study.space_table
        return {
            name: f"was {value_text(before[name])}" if name in before else "was not searched"
            for name in space
            if space[name] != before.get(name)
        }

    def _end_checks(self, results: list[CheckResult], setting: str = "") -> None:
        """Add results to the last step, and stop where one failed or there is no task."""
        step = self.steps[-1]
        add_checks(step, results, setting)
        task = next((result for result in results if result.name == "task"), None)
        if task is not None and not step.stopped:
            step.stop(f"{task.meaning} {task.remedy}")
        self._decide(step.decision if step.stopped else _GO_ON)

    def _begin(self, title: str, question: str) -> RecipeStep:
        self.steps.append(RecipeStep(title, question))
        self._print_title(f"{len(self.steps)}. {title}: {question}")
        return self.steps[-1]

    def _decide(self, decision: str) -> None:
        """End a step. Raises ScattershotError where the recipe stops."""
        step = self.steps[-1]
        step.decision = decision
        self._write_page(None)
        if step.stopped:
            raise ScattershotError(
                f"the recipe stops at step {len(self.steps)}, {step.title.lower()}: "
                f"{decision.removeprefix('Stop: ')} (page: {self.page})"
            )
        if decision != _GO_ON:
            print(f"→ {decision}")

    def _print_title(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def _print_observations(self) -> None:
        for observation in self.steps[-1].observations:
            print(f"  {observation}")

    def _print_result(self, result: CheckResult) -> CheckResult:
        print_page(check_page.result_lines(result))
        sys.stdout.flush()
        return result

    def _write_page(self, file: WrittenFile | None) -> None:
        lead = (
            f"task {self.study.study.task}, from {self.file.name}: six steps from an untried task "
            "to a study file."
        )
        page = recipe_page(self.study.study.name, lead, self.steps, file)
        write(self.page, page.encode(), sync=False)
