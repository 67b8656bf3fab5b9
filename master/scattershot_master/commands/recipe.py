"""Owns `recipe`: the notes' six steps, from an untried task to a study file and a page about it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scattershot_common.errors import ScattershotError, StudyFileError

if TYPE_CHECKING:
    from scattershot_common.study.settings import StudyFile
    from scattershot_common.task.check_result import CheckResult
    from scattershot_common.trial import Value
    from scattershot_master.commands.run import LocalRun
    from scattershot_master.recipe.html import Step
    from scattershot_master.state.ledger import Ledger

#: The first line of every study file that a recipe writes: such a file may be written over.
_MARK = "Written by scattershot recipe"


def recipe(
    file: Annotated[Path, typer.Argument(help="Study file (TOML).", show_default=False)],
    workers: Annotated[
        int | None,
        typer.Option(help="Trials at a time (default: one per GPU, else per core).", min=1),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Output root: page and search are put in STUDY.recipe in it.")
    ] = Path("checkpoints"),
    write: Annotated[
        Path | None,
        typer.Option(
            help="The study file to write (default: FILE with -recipe in its name).",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Trials of the coarse stage (default: the file's first stage).",
            min=2,
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of the coarse stage (default: likewise).", min=1),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Find a study's settings in six steps: loss, overfitting, rate, coarse, fine, curves.

    Writes the study file it arrives at, and a page that explains each decision. Exit code 1 if a
    step fails; run again after Ctrl-C, the search goes on.
    """
    from scattershot_common.bus.connection import url_from
    from scattershot_common.problems import check_device
    from scattershot_common.study.study_file import load
    from scattershot_master.commands.run import LocalRun

    check_device(device)
    study = load(file)
    if len(study.study.name) > 50:
        raise StudyFileError("study.name: a recipe adds to it; at most 50 characters")
    target = write or file.with_name(f"{file.stem}-recipe{file.suffix}")
    _check_target(target)
    folder = out / f"{study.study.name}.recipe"
    kitchen = RecipeRun(study, file, target, LocalRun(url_from(None), workers, folder, device))
    kitchen.check_first()
    rates = kitchen.find_rates()
    ledger, searched = kitchen.search(rates, trials, epochs)
    kitchen.conclude(ledger, searched)


def _check_target(target: Path) -> None:
    try:
        mine = not target.exists() or target.read_text(encoding="utf-8").startswith(f"# {_MARK}")
    except (OSError, UnicodeDecodeError):
        mine = False
    if not mine:
        raise StudyFileError(f"{target} is there, and not from a recipe: name another with --write")
    if not target.parent.is_dir():
        raise StudyFileError(f"{target}: there is no folder {target.parent}")


@dataclass
class RecipeRun:
    """One recipe under way: the page grows with every step."""

    study: StudyFile
    file: Path
    target: Path
    here: LocalRun
    steps: list[Step] = field(default_factory=list)

    def check_first(self) -> None:
        """Take the first three steps. Raises ScattershotError where one fails."""
        from scattershot_master.recipe.steps import CHECKED

        results = self._checks({}, [name for _, _, names in CHECKED for name in names])
        for title, asks, names in CHECKED:
            self._begin(title, asks)
            found: list[CheckResult] = []
            for result in results:
                found.append(self._shown(result))
                if result.name == names[-1] or result.status == "fail" or result.name == "task":
                    break
            self._checked(found)

    def find_rates(self) -> tuple[float, float] | None:
        """Sweep the rate for every optimizer that is searched; return the range to search."""
        from scattershot_master.recipe.plan import searches_rates
        from scattershot_master.recipe.steps import rates_from

        swept = [next(result for result in self.steps[-1].checks if result.name == "rates")]
        if not searches_rates(self.study):
            self._decide("The study file fixes lr, or lists its values: they are kept.")
            return None
        for optimizer in self._other_optimizers():
            print(f"\nand with optimizer = {optimizer}")
            (result,) = self._checks({"optimizer": optimizer}, ["rates"])
            self._shown(result)
            swept.append(result)
            self._checked([result], about=f"optimizer = {optimizer}")
        rates = rates_from(swept)
        if rates is None:
            self._decide(
                "Stop: there is no learning rate at which the loss clearly falls.", stop=True
            )
        else:
            self._decide(f"Search lr = {{ loguniform = [{rates[0]:g}, {rates[1]:g}] }}.")
        return rates

    def _other_optimizers(self) -> list[Value]:
        """Return the optimizers searched besides the one that was checked first."""
        from scattershot_master.launch.check_process import middle

        axis = next((axis for axis in self.study.space.axes if axis.name == "optimizer"), None)
        first = middle(self.study.space, {}).get("optimizer")
        return [one for one in axis.choices if one != first] if axis else []

    def search(
        self, rates: tuple[float, float] | None, trials: int | None, epochs: int | None
    ) -> tuple[Ledger, StudyFile]:
        """Search, coarse and then fine, as `scattershot run` does; return its closed ledger."""
        from scattershot_common.study.study_file import parse
        from scattershot_master.commands.run import live_view, say_how_to_go_on, search_here
        from scattershot_master.recipe import plan
        from scattershot_master.recipe.steps import stage_step
        from scattershot_master.recipe.write_toml import written
        from scattershot_master.search.open_study import data_folder, note_home, open_study

        tables = plan.search(self.study, rates, trials=trials, epochs=epochs)
        text = written(tables, [f"{_MARK}: what it searched."])
        searched = parse(text, str(self.file), self.file.parent)
        coarse, fine = searched.stages
        self._say("Search coarse, then fine")
        view = live_view()
        searched, ledger = open_study(searched, text, self.here.out, fresh=False)
        home, data = self.file.resolve().parent, data_folder(self.study, self.file)
        paths = [home, Path.cwd()]
        try:
            note_home(ledger, home, data)
            if not ledger.state.finished:
                end = search_here(searched, ledger, self.here, data, paths, view)
                if end != "over":
                    say_how_to_go_on(view, ledger.folder, end)
                ledger.append("finished")
                ledger.commit(sync=True)
        finally:
            view.close()
            ledger.close()
        state = ledger.state
        for index, (title, stage) in enumerate((("Coarse", coarse), ("Fine", fine))):
            asks = f"{stage.trials} trials of {stage.epochs} epochs: "
            asks += "where is it worth looking?" if not index else "where exactly?"
            stage_step(self._begin(title, asks), state, index)
            for found in self.steps[-1].found:
                print(f"  {found}")
            notes = state.stages[1].notes if len(state.stages) > 1 and not index else []
            self._decide(self.steps[-1].decided or "; ".join(notes) or "Go on.")
        return ledger, searched

    def conclude(self, ledger: Ledger, searched: StudyFile) -> None:
        """Read the curves, write the study file, and finish the page."""
        from scattershot_common.store.files import write
        from scattershot_common.study.study_file import parse
        from scattershot_master.recipe import plan
        from scattershot_master.recipe.steps import curves_step, narrowed_to
        from scattershot_master.recipe.write_toml import written

        state = ledger.state
        narrowing = narrowed_to(state)
        self.steps[-1].decided = "; ".join(narrowing.notes) or "Keep the ranges."
        self._begin("Loss curves", "What do the curves of the best trials say?")
        _, reading = curves_step(self.steps[-1], state, searched, state.checkpoints(ledger.folder))
        for found in self.steps[-1].found:
            print(f"  {found}")
        self._decide(reading.decision)
        tables = plan.arrived(self.study, searched, narrowing.box, reading.epochs)
        head = [
            f"{_MARK}, from {self.file.name}. It will write over this file if run again.",
            f"Why each line is as it is: {self._page}",
        ]
        text = written(tables, head, self._notes(tables["space"]))
        parse(text, str(self.target), self.target.parent)
        write(self.target, text.encode(), sync=True)
        self._keep((str(self.target), text))
        print(f"\nstudy file  {self.target}\npage        {self._page}")
        print(f"To run it:  scattershot run {self.target}")

    def _notes(self, space: dict[str, Any]) -> dict[str, str]:
        """Return what every dimension that has changed was before."""
        from scattershot_master.recipe.write_toml import value_text

        before = self.study.space_table
        return {
            name: f"was {value_text(before[name])}" if name in before else "was not searched"
            for name in space
            if space[name] != before.get(name)
        }

    def _checks(self, given: dict[str, Value], only: list[str]) -> Iterator[CheckResult]:
        from scattershot_master.launch.check_process import middle, run_checks
        from scattershot_master.search.open_study import data_folder

        return run_checks(
            self.study,
            middle(self.study.space, given),
            only=only,
            device=self.here.device,
            data=data_folder(self.study, self.file),
            paths=[self.file.resolve().parent, Path.cwd()],
        )

    def _shown(self, result: CheckResult) -> CheckResult:
        from scattershot_master.show import check_page
        from scattershot_master.show.terminal import print_page

        print_page(check_page.result_lines(result))
        sys.stdout.flush()
        return result

    def _checked(self, results: list[CheckResult], about: str = "") -> None:
        """Take results into the last step, and stop where one failed or there is no task."""
        from scattershot_master.recipe.steps import checked

        step = checked(self.steps[-1], results, about)
        lame = [result for result in results if result.name == "task"]
        if step.outcome == "stopped" or lame:
            self._decide(step.decided or f"Stop: {lame[0].meaning} {lame[0].remedy}", stop=True)
        self._decide("Go on.")

    def _say(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def _begin(self, title: str, asks: str) -> Step:
        from scattershot_master.recipe.html import Step

        self.steps.append(Step(title, asks))
        self._say(f"{len(self.steps)}. {title}: {asks}")
        return self.steps[-1]

    def _decide(self, decided: str, *, stop: bool = False) -> None:
        """End a step. Raises ScattershotError where the recipe stops."""
        step = self.steps[-1]
        step.decided = decided
        stop = stop or step.outcome == "stopped"
        step.outcome = "stopped" if stop else "done"
        self._keep(None)
        if stop:
            raise ScattershotError(
                f"the recipe stops at step {len(self.steps)}, {step.title.lower()}: "
                f"{decided.removeprefix('Stop: ')} (page: {self._page})"
            )
        if decided != "Go on.":
            print(f"→ {decided}")

    @property
    def _page(self) -> Path:
        return self.here.out / "recipe.html"

    def _keep(self, file: tuple[str, str] | None) -> None:
        from scattershot_common.store.files import write
        from scattershot_master.recipe.html import page

        lead = (
            f"task {self.study.study.task}, from {self.file.name}: six steps from an untried task"
        )
        text = page(self.study.study.name, f"{lead} to a study file.", self.steps, file)
        write(self._page, text.encode(), sync=False)
