"""Owns the files of a recovery: what is read, what is moved aside, and that nothing is deleted."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from scattershot_common.bus.server import running_url
from scattershot_common.errors import ScattershotError
from scattershot_common.local_files import lock, write
from scattershot_common.store.checkpoint_names import is_study_name
from scattershot_common.store.location import study_store
from scattershot_common.study.settings import StudyFile
from scattershot_master.recovery.facts import Facts, from_checkpoints, from_lines
from scattershot_master.recovery.rebuild import Rebuilt, rebuild
from scattershot_master.search.open_study import renamed
from scattershot_master.state.ledger import LEDGER, encode, read
from scattershot_master.state.study_state import StudyState

#: What a study is known by besides its ledger.
STUDY = "study.toml"


def sound(folder: Path) -> StudyState | None:
    """Return what the ledger adds up to, or None where it is missing or damaged."""
    try:
        state = read(folder)
        StudyFile.model_validate(state.settings.recorded)
        return state
    except (ScattershotError, LookupError, TypeError, ValueError, AttributeError):
        return None


def recover(folder: Path) -> tuple[Rebuilt, list[Path]]:
    """Write a new ledger from what is left of the study in `folder`.

    The damaged one, and the data of the study's embedded Redis, which speaks of it, are moved
    aside. Returns what was rebuilt, and what was moved where.

    Raises:
        ScattershotError: a master runs it, or nothing is left that tells of it.
    """
    folder = folder.resolve()
    if not is_study_name(folder.name):
        raise ScattershotError(f"{folder.name!r} cannot be a study's name; rename its folder")
    if running_url(folder / "redis") is not None:
        raise ScattershotError(f"the study's Redis still runs: scattershot stop {folder}")
    with _nobody_at(folder / LEDGER):
        facts = Facts()
        if (folder / LEDGER).exists():
            from_lines(facts, (folder / LEDGER).read_bytes())
        study = _study(folder, facts)
        checkpoints = study_store(study.checkpoints.store, folder, folder.name)
        from_checkpoints(facts, checkpoints, study.study.seed)
        facts.ensemble = facts.ensemble or _ensemble(folder)
        if not facts.trials:
            raise ScattershotError(
                f"nothing is left of the study in {folder}: no checkpoint, no sound line of its "
                "ledger; begin it anew with --fresh"
            )
        uid = secrets.token_hex(8)
        rebuilt = rebuild(study, facts, uid, version("scattershot"), time.time())
        if study.checkpoints.store is not None:
            checkpoints.claim(uid, by_force=True)
        moved = [path for path in (_aside(folder, LEDGER), _aside(folder, "redis")) if path]
        write(folder / LEDGER, b"".join(map(encode, rebuilt.events)), sync=True)
    return rebuilt, moved


def was_recovered(folder: Path) -> bool:
    """Return whether the study's ledger comes from a recovery."""
    with (folder / LEDGER).open("rb") as file:
        return bool(json.loads(file.readline()).get("recovered"))


@contextmanager
def _nobody_at(ledger: Path) -> Iterator[None]:
    """Hold the ledger's lock, if there is a ledger."""
    if not ledger.exists():
        yield
        return
    with ledger.open("rb") as file:
        try:
            lock(file)
        except OSError:
            raise ScattershotError(
                f"a master runs the study in {ledger.parent}; stop it first "
                f"(scattershot stop {ledger.parent})"
            ) from None
        yield


def _study(folder: Path, facts: Facts) -> StudyFile:
    """Return the study by its ledger's first line, else by the study file beside it."""
    if facts.study is not None:
        try:
            return renamed(StudyFile.model_validate(facts.study), folder.name)
        except ValidationError:
            facts.notes.append(f"the study's line in {LEDGER} is damaged; {STUDY} is taken")
    try:
        tables = tomllib.loads((folder / STUDY).read_text(encoding="utf-8-sig"))
        return renamed(StudyFile.model_validate(tables), folder.name)
    except OSError:
        why = "is missing"
    except ValueError:
        why = "is no study file"
    raise ScattershotError(
        f"nothing tells which study is in {folder}: {STUDY} {why}; put the file that it was begun "
        "with there, under this name"
    )


def _ensemble(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / "ensemble" / "ensemble.json").read_text())
        return found if isinstance(found, dict) else None
    except (OSError, ValueError):
        return None


def _aside(folder: Path, name: str) -> Path | None:
    """Move a file or a folder to a free name; return that, None where there is nothing to move."""
    path, number = folder / name, 1
    if not path.exists():
        return None
    while (aside := folder / f"{name}.before-recovery-{number}").exists():
        number += 1
    if path.is_dir():
        path.rename(aside)
        return aside
    try:
        os.link(path, aside)  # the new ledger takes its place at once, never leaving none
    except OSError:
        shutil.copy2(path, aside)
    return aside
