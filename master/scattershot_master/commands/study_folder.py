"""Finding the study that a command means, and whether a master runs it."""

from __future__ import annotations

from pathlib import Path

from scattershot_common.errors import ScattershotError
from scattershot_common.local_files import lock
from scattershot_master.state.ledger import LEDGER

#: Where `scattershot run` puts studies unless told otherwise.
ROOT = Path("checkpoints")


def study_folder(given: Path | None, marks: tuple[str, ...] = (LEDGER,)) -> Path:
    """Return the folder of the study that `given` means.

    That is a study's folder (it has one of `marks` in it), or an output root, of which the study
    that was written to last is taken. The default root is `checkpoints/`.

    Raises:
        ScattershotError: neither; says what was looked for.
    """
    root = ROOT if given is None else given
    try:
        if any((root / mark).exists() for mark in marks):
            return root
        if studies := [path for mark in marks for path in root.glob(f"*/{mark}")]:
            return max(studies, key=lambda path: path.stat().st_mtime).parent
    except OSError as error:
        raise ScattershotError(f"{root} cannot be read: {error.strerror}") from None
    raise ScattershotError(_missing(root, marks))


def _missing(root: Path, marks: tuple[str, ...]) -> str:
    if not root.is_dir():
        problem = f"there is no folder {root}"
        if any((ROOT / root / mark).exists() for mark in marks):
            return f"{problem}; did you mean {ROOT / root}?"
    else:
        problem = (
            f"there is no study in {root} (looked for {root / marks[0]} and {root}/*/{marks[0]}"
        )
        problem += ")"
    return f"{problem}; name a study's folder, or start one: scattershot run FILE"


def running(folder: Path) -> bool:
    """Return whether a master has the study's ledger open."""
    try:
        with (folder / LEDGER).open("rb") as file:
            lock(file, shared=True)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False
