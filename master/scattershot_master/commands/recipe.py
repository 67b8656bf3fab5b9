"""The command `recipe`: the notes' six steps, from an untried task to a study file and a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattershot_common.errors import StudyFileError

if TYPE_CHECKING:
    from scattershot_common.study.settings import StudyFile
    from scattershot_common.task.check_result import CheckResult
    from scattershot_common.trial import Value
    from scattershot_master.search.run_study import LocalRun
    from scattershot_master.state.ledger import Ledger


def recipe(
    file: Annotated[Path, typer.Argument(help="Study file (TOML).", show_default=False)],
    workers: Annotated[
        int | None,
        typer.Option(help="Trials at a time (default: one per GPU, else per core).", min=1),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Output root; page and search go to STUDY.recipe in it.")
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Find a study's settings in six steps: loss, overfitting, rate, coarse, fine, curves.

    Writes the study file it arrives at, and a page that explains each decision. Exit code 1 if a
    step fails; run again after Ctrl-C, the search goes on.
    """
    from scattershot_common.bus.connection import url_from
    from scattershot_common.problems import check_device
    from scattershot_common.study.study_file import load
    from scattershot_master.recipe.run import RecipeRun, check_target
    from scattershot_master.search.run_study import LocalRun

    check_device(device)
    study = load(file)
    if len(study.study.name) > 50:
        raise StudyFileError("study.name: a recipe adds to it; at most 50 characters")
    target = write or file.with_name(f"{file.stem}-recipe{file.suffix}")
    check_target(target)
    folder = out / f"{study.study.name}.recipe"
    here = LocalRun(url_from(None), workers, folder, device)
    runner = _LocalRunner(study, file, here)
    page = folder / "recipe.html"
    RecipeRun(study, file, target, page, runner.checks, runner.search).run(trials, epochs)


@dataclass(frozen=True)
class _LocalRunner:
    """Runs the checks and the search of a recipe on this machine."""

    study: StudyFile
    file: Path
    here: LocalRun

    @property
    def _home(self) -> Path:
        return self.file.resolve().parent

    def checks(self, params: dict[str, Value], names: list[str]) -> Iterator[CheckResult]:
        from scattershot_master.launch.check_process import middle, run_checks
        from scattershot_master.search.open_study import data_folder

        return run_checks(
            self.study,
            middle(self.study.space, params),
            only=names,
            device=self.here.device,
            data=data_folder(self.study, self.file),
            paths=[self._home, Path.cwd()],
        )

    def search(self, searched: StudyFile, text: str) -> Ledger:
        """Search as `scattershot run` does, but without the ensemble and the test part."""
        from scattershot_master.commands.run import exit_unfinished, observers_of_terminal
        from scattershot_master.search.open_study import data_folder, note_home, open_study
        from scattershot_master.search.run_study import End, search_here
        from scattershot_master.state.events import StudyFinished

        observers = observers_of_terminal()
        _, ledger = open_study(searched, text, self.here.out, fresh=False)
        data = data_folder(self.study, self.file)
        paths = [self._home, Path.cwd()]
        try:
            note_home(ledger, self._home, data)
            if not ledger.state.finished:
                end = search_here(ledger, self.here, data, paths, observers)
                if end is not End.OVER:
                    exit_unfinished(observers, ledger.folder, end)
                ledger.append(StudyFinished())
                ledger.commit(sync=True)
                observers.study_finished(ledger.state)
        finally:
            observers.close()
            ledger.close()
        return ledger
