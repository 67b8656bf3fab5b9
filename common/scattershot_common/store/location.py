"""Owns where a study's checkpoints lie: in its folder, or in an object store that a URL names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from scattershot_common.errors import CheckpointError, StudyFileError

if TYPE_CHECKING:
    from upath import UPath

#: A path on this machine, or one in an object store. Both know `/`, `name` and `parent`; all else
#: goes through `files` and `names`, which take either.
Location: TypeAlias = "Path | UPath"

_OWNER = "study.json"
_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)://[^\s/][^\s\\]*")


def problem_with(store: str) -> str:
    """Return why `store` cannot be [checkpoints] store, or "" if its form is right.

    Never quotes it: it may hold a password.

    >>> problem_with("s3://bucket/prefix")
    ''
    >>> problem_with("s3://key:secret@bucket")[:44]
    'must hold neither @ nor ? nor #: credentials'
    """
    if re.search(r"[@?#]", store):
        return (
            "must hold neither @ nor ? nor #: credentials come from the environment alone "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the machine's role)"
        )
    found = _URL.fullmatch(store)
    if (
        found is None
        or found["protocol"] in ("file", "local", "memory")
        or "::" in store
        or ".." in store.split("/")
    ):
        return (
            "must be the URL of an object store, such as s3://bucket/prefix; a folder is chosen by "
            "--out, the same for the master and all workers"
        )
    return ""


def root(store: str | None, folder: Path, study: str) -> Location:
    """Return what holds `trials/` of a study: its `folder`, or its place in the object store.

    Nothing is asked of the store yet; see `claim`.

    >>> root(None, Path("checkpoints/digits"), "digits").as_posix()
    'checkpoints/digits'

    Raises:
        CheckpointError: `store` is no URL of an object store, or the library for it is missing.
    """
    if store is None:
        return folder
    if wrong := problem_with(store):  # the master has looked, but a worker got it from Redis
        raise CheckpointError(f"[checkpoints] store {wrong}")
    return at(address(store, folder, study))


def address(store: str | None, folder: Path, study: str) -> str:
    """Return what to call the `root` of the same arguments; needs no library.

    >>> address("s3://bucket/prefix/", Path("checkpoints/digits"), "digits")
    's3://bucket/prefix/digits'
    """
    return str(folder) if store is None else f"{store.rstrip('/')}/{study}"


def at(text: str) -> Location:
    """Return the place that `text` names: the `str` of another one.

    Raises:
        CheckpointError: the library for its kind of store is missing.
    """
    if "://" not in text:
        return Path(text)
    protocol = text.partition(":")[0]
    try:
        from fsspec import get_filesystem_class
        from upath import UPath

        get_filesystem_class(protocol)  # UPath would take an unknown one for a folder's name
        # other processes write there, too: nothing may be remembered of what was listed
        return UPath(text, use_listings_cache=False)
    except ImportError as error:
        install = "scattershot[s3]" if protocol in ("s3", "s3a") else "universal_pathlib"
        remedy = f"pip install '{install}'"
        if install == "universal_pathlib":
            remedy += " and fsspec's library for it"
        raise CheckpointError(f"{protocol}:// needs a library ({error}): {remedy}") from error
    except Exception as error:
        raise CheckpointError(f"{text} cannot be used as a store: {error}") from error


def claim(place: Location, uid: str, *, by_force: bool = False) -> None:
    """Make sure that the study known by `uid` can keep its checkpoints at `place`, and it alone.

    `by_force` takes the place from whoever has it: the same study, before its ledger was lost.

    Writes a small file there that says whose they are, the first time and every time: what is
    wrong with bucket, credentials or rights shows before any trial has been trained.

    Raises:
        StudyFileError: the checkpoints of another study of this name are there.
        CheckpointError: nothing can be kept there; says what to do.
    """
    from scattershot_common.store.files import exists, read, write_json

    owner = place / _OWNER
    if not by_force and exists(owner):
        try:
            known = json.loads(read(owner))["uid"]
        except (ValueError, LookupError, TypeError):
            known = None
        if known != uid:
            raise StudyFileError(
                f"{place} holds the checkpoints of another study; give this one another name "
                "([study] name) or another [checkpoints] store, or remove what is there"
            )
    write_json(owner, {"uid": uid})
