"""Recovery of a study's folder: reads what is left, moves damaged files aside, deletes nothing."""

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
from scattershot_common.store.open_store import study_store
from scattershot_common.study.settings import StudyFile
from scattershot_master.recovery.rebuild import RebuiltLedger, rebuild_ledger
from scattershot_master.recovery.salvage import SalvagedStudy, read_checkpoints, read_ledger_lines
from scattershot_master.search.open_study import renamed
from scattershot_master.state.ledger import LEDGER, encode, read
from scattershot_master.state.study_state import StudyState

#: The copy of the study file that lies beside the ledger.
STUDY = "study.toml"


def read_sound_ledger(folder: Path) -> StudyState | None:
    """Return the state in the ledger, or None where it is missing or damaged."""
    try:
        state = read(folder)
        StudyFile.model_validate(state.settings.recorded)
        return state
    except (ScattershotError, LookupError, TypeError, ValueError, AttributeError):
        return None


def recover(folder: Path) -> tuple[RebuiltLedger, list[Path]]:
    """Write a new ledger from what is left of the study in `folder`.

    The damaged one, and the data of the study's embedded Redis, which depends on it, are moved
    aside. Returns the rebuilt ledger, and the paths of what was moved aside.

    Raises:
        ScattershotError: a master runs the study, or nothing is left of it.
    """
    folder = folder.resolve()
    if not is_study_name(folder.name):
        raise ScattershotError(f"{folder.name!r} cannot be a study's name; rename its folder")
    if running_url(folder / "redis") is not None:
        raise ScattershotError(f"the study's Redis still runs: scattershot stop {folder}")
    with _no_master(folder / LEDGER):
        salvaged = SalvagedStudy()
        if (folder / LEDGER).exists():
            read_ledger_lines(salvaged, (folder / LEDGER).read_bytes())
        study = _study(folder, salvaged)
        checkpoints = study_store(study.checkpoints.store, folder, folder.name)
        read_checkpoints(salvaged, checkpoints, study.study.seed)
        salvaged.ensemble = salvaged.ensemble or _ensemble(folder)
        if not salvaged.trials:
            raise ScattershotError(
                f"nothing is left of the study in {folder}: no checkpoint, no sound line of its "
                "ledger; begin it anew with --fresh"
            )
        uid = secrets.token_hex(8)
        rebuilt = rebuild_ledger(study, salvaged, uid, version("scattershot"), time.time())
        if study.checkpoints.store is not None:
            checkpoints.claim(uid, by_force=True)
        moved = [
            path for path in (_move_aside(folder, LEDGER), _move_aside(folder, "redis")) if path
        ]
        write(folder / LEDGER, b"".join(map(encode, rebuilt.events)), sync=True)
    return rebuilt, moved


def was_recovered(folder: Path) -> bool:
    """Return whether the study's ledger comes from a recovery."""
    with (folder / LEDGER).open("rb") as file:
        return bool(json.loads(file.readline()).get("recovered"))


@contextmanager
def _no_master(ledger: Path) -> Iterator[None]:
    """Hold the ledger's lock, if there is a ledger; raises ScattershotError if a master has it."""
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


def _study(folder: Path, salvaged: SalvagedStudy) -> StudyFile:
    """Return the study from its ledger's first line, else from the study file beside it."""
    if salvaged.study is not None:
        try:
            return renamed(StudyFile.model_validate(salvaged.study), folder.name)
        except ValidationError:
            salvaged.notes.append(f"the study's line in {LEDGER} is damaged; {STUDY} is taken")
    try:
        tables = tomllib.loads((folder / STUDY).read_text(encoding="utf-8-sig"))
        return renamed(StudyFile.model_validate(tables), folder.name)
    except OSError:
        problem = "is missing"
    except ValueError:
        problem = "is no study file"
    raise ScattershotError(
        f"nothing tells which study is in {folder}: {STUDY} {problem}; put the file that it was "
        "begun with there, under this name"
    )


def _ensemble(folder: Path) -> dict[str, Any] | None:
    try:
        ensemble = json.loads((folder / "ensemble" / "ensemble.json").read_text())
        return ensemble if isinstance(ensemble, dict) else None
    except (OSError, ValueError):
        return None


def _move_aside(folder: Path, name: str) -> Path | None:
    """Move a file or a folder to a free name; return its path, None where there is none to move."""
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
