"""The page of a recipe: one HTML file that explains each decision, without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scattershot_master.recipe.steps import RecipeStep


class WrittenFile(NamedTuple):
    """A study file that was written, and its text."""

    path: Path
    text: str


def recipe_page(
    study: str, lead: str, steps: Sequence[RecipeStep], file: WrittenFile | None
) -> str:
    """Return the page of the recipe for `study`; `file` is the study file it led to, if any."""
    import jinja2  # no other command needs it

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scattershot_master.recipe", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("page.html.j2")
    return template.render(study=study, lead=lead, steps=steps, file=file)
