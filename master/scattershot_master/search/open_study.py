"""Opening a study: in a new folder, or in the one that it goes on in."""

from __future__ import annotations

import re
import secrets
import tomllib
from importlib.metadata import version
from pathlib import Path

from scattershot_common.errors import StudyFileError
from scattershot_common.local_files import STALE, clean_stale, write
from scattershot_common.study.settings import StudyFile
from scattershot_master import text as words
from scattershot_master.state.events import FoldersNoted, SettingsChanged, StudyBegun
from scattershot_master.state.ledger import LEDGER, Ledger

_STUDY = "study.toml"


def open_study(
    study: StudyFile, text: str, root: Path, *, fresh: bool, wait_s: float = 0.0
) -> tuple[StudyFile, Ledger]:
    """Open the study's ledger under `root`; return it and the study under its folder's name.

    Without `fresh` the newest folder of this name goes on; with it a new one is made, and
    nothing is ever deleted but stale temp files. `text` is the study file's, kept as `study.toml`
    beside the ledger. A master that was deposed has `wait_s` seconds to release it.

    Raises:
        StudyFileError: the folder holds a study that was begun with other settings.
        ScattershotError: another master has it open, or it cannot be written.
    """
    name = study.study.name
    folder = None if fresh else newest_folder(root, name)
    if folder is None:
        folder = _unused(root, name)
    study = renamed(study, folder.name)
    ledger = Ledger(folder, wait_s=wait_s)
    state = ledger.state
    dumped = study.model_dump(mode="json", by_alias=True)
    recorded = state.settings.recorded
    if not recorded:
        ledger.append(StudyBegun(secrets.token_hex(8), dumped, version("scattershot")))
        write(folder / _STUDY, text.encode(), sync=False)
        ledger.commit()
        return study, ledger
    begun = StudyFile.model_validate(recorded)
    if state.trials and begun.checkpoints.store != study.checkpoints.store:
        ledger.close()
        raise StudyFileError(
            f"{folder} has its checkpoints in {state.store or 'it'}: [checkpoints] store cannot "
            "change any more; restore it to go on, or use --fresh to begin a new study beside it"
        )
    if begun.identity() != study.identity():
        ledger.close()
        raise StudyFileError(
            f"{folder} was begun with other settings ({_difference(begun, study)}); "
            "restore them to go on, or use --fresh to begin a new study beside it"
        )
    clean_stale(folder, STALE)
    if recorded != dumped:
        ledger.append(SettingsChanged(dumped))
        write(folder / _STUDY, text.encode(), sync=False)
        ledger.commit()
    return study, ledger


def note_home(ledger: Ledger, folder: Path, data: str | None) -> None:
    """Note the study file's folder and the data's in the ledger, for `ensemble eval`."""
    if (ledger.state.home, ledger.state.data) != (str(folder), data):
        ledger.append(FoldersNoted(str(folder), data))
        ledger.commit()


def data_folder(study: StudyFile, file: Path) -> str | None:
    """Return [study] data of the study file `file`; a relative one is meant from its folder.

    "~" is the user's home.
    """
    data = study.study.data
    if data is None:
        return None
    return str((file.resolve().parent / Path(data).expanduser()).absolute())


def newest_folder(root: Path, name: str) -> Path | None:
    """Return the folder of `name`, or of its latest fresh start (`name-2`, …), if there is one."""
    pattern = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    starts = {
        int(match[1] or 1): path.parent
        for path in root.glob(f"*/{LEDGER}")
        if (match := pattern.fullmatch(path.parent.name)) and _called(path.parent) in (name, None)
    }
    return starts[max(starts)] if starts else None


def _called(folder: Path) -> str | None:
    """Return the name in a folder's study file: `digits-2` may be a study of that very name."""
    try:
        text = (folder / _STUDY).read_text(encoding="utf-8")
        return str(tomllib.loads(text)["study"]["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _unused(root: Path, name: str) -> Path:
    folder, number = root / name, 1
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


def renamed(study: StudyFile, name: str) -> StudyFile:
    """Return the study under another name."""
    return study.model_copy(update={"study": study.study.model_copy(update={"name": name})})


def _difference(begun: StudyFile, now: StudyFile) -> str:
    """Name the first keys that decide the trials and differ, for the user."""
    old, new = (s.model_dump(mode="json", by_alias=True) for s in (begun, now))
    parts = []
    for tables in (old, new):
        del tables["study"]["data"]  # which may lie elsewhere
        tables["stage"] = {stage["name"]: stage for stage in tables["stage"]}
    for table in ("study", "space", "stage", "kill"):
        was, now_is = old[table], new[table]
        keys = [key for key in was | now_is if was.get(key) != now_is.get(key)]
        if not keys and [*was] != [*now_is]:
            parts.append(f"the order of [{table}]")
        parts += [f"{table}.{key}" for key in keys]
    return words.first_few(parts, 3)
