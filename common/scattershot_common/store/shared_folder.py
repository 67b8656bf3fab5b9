"""Owns the question whether another machine sees the same folder: a file of a fresh name tells."""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path

_PREFIX = ".scattershot-look-"
_NONCE = re.compile(r"[0-9a-f]{32}")


def hide(root: Path) -> str:
    """Put a file into `root` whose name nobody can know; return what to look for.

    A fresh name, because a network file system remembers for a while which names were not there.
    Raises OSError where `root` cannot be written.
    """
    nonce = secrets.token_hex(16)
    (root / f"{_PREFIX}{nonce}").write_text(nonce)
    return nonce


def look(root: Path, nonce: str) -> str:
    """Return why `root` is not the folder in which the file was hidden, or cannot be written.

    "" if it is and can. Looks for nothing but what `hide` returned: it comes from Redis.

    >>> look(Path("/nowhere"), "../../etc/passwd")
    'asked for a name that is none'
    """
    if _NONCE.fullmatch(nonce) is None:
        return "asked for a name that is none"
    path = root / f"{_PREFIX}{nonce}"
    try:
        if path.read_text() != nonce:
            return "its file has other contents"
    except FileNotFoundError:
        return "is another folder" if root.is_dir() else "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    own = root / f"{_PREFIX}{nonce}-{secrets.token_hex(4)}"
    try:
        own.write_text("")
        own.unlink()
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def clean(root: Path, nonce: str) -> None:
    """Remove what `hide` and `look` have left."""
    for path in root.glob(f"{_PREFIX}{nonce}*"):
        with suppress(OSError):
            path.unlink()
