"""What the documents say of the tree: every path is there, and every room is listed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.import_graph import ROOT, WINGS

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def listed_folders() -> Iterator[Path]:
    """Yield the folders in the README's tree; indented ones are in the last that is not."""
    text = (ROOT / "README.md").read_text().partition("## The house")[2].partition("\n## ")[0]
    above = ROOT
    for line in text.splitlines():
        names = re.match(r"    (?: {4})?((?:[\w/]+/ )+)", line)
        if names is None:
            continue
        inside = line.startswith(" " * 8)
        for name in names[1].split():
            yield (above if inside else ROOT) / name
            if not inside:
                above = ROOT / name


def test_every_folder_of_the_readmes_tree_is_there() -> None:
    listed = [*listed_folders()]
    assert len(listed) > 25
    assert [str(folder) for folder in listed if not folder.is_dir()] == []


@pytest.mark.parametrize("wing", WINGS)
def test_every_room_is_in_the_readmes_tree(wing: str) -> None:
    package = ROOT / wing / WINGS[wing]
    rooms = {path.parent for path in package.glob("*/*.py")}
    assert rooms - {*listed_folders()} == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_of_a_document_leads_to_a_file(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_source_file_that_a_document_names_is_there(document: Path) -> None:
    """The name of a wing's package may be left out; "new" stands before what is still to come."""
    path = r"(?<!new )`((?:api|common|master|worker|tests)/[\w/.]+)`"
    named = re.findall(path, document.read_text())
    missing = [
        name
        for name in named
        if not (ROOT / name).exists() and not (package_of(name) / name.partition("/")[2]).exists()
    ]
    assert missing == []


def package_of(name: str) -> Path:
    wing = name.partition("/")[0]
    return ROOT / wing / WINGS.get(wing, "")
