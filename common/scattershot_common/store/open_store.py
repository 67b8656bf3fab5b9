"""Where a study's checkpoints lie: in its folder, or in an object store that a URL names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from scattershot_common.errors import CheckpointError
from scattershot_common.store.local import LocalStore
from scattershot_common.store.store import Store


def _object_store(url: str) -> Store:
    """Return a store behind fsspec; its module is loaded only where a study has one."""
    from scattershot_common.store.object_store import ObjectStore

    return ObjectStore(url)


#: What opens a store, by the protocol of its address: "" is that of a path, "*" of any URL for
#: which there is no row. A new kind of store is a subclass of Store in a file of its own, and a
#: row here.
STORES: Mapping[str, Callable[[str], Store]] = {"": LocalStore, "*": _object_store}

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
    url = _URL.fullmatch(store)
    if (
        url is None
        or url["protocol"] in ("file", "local", "memory")
        or "::" in store
        or ".." in store.split("/")
    ):
        return (
            "must be the URL of an object store, such as s3://bucket/prefix; a folder is chosen by "
            "--out, the same for the master and all workers"
        )
    return ""


def address(store: str | None, folder: Path, study: str) -> str:
    """Return the path or URL of what holds `trials/` of a study; needs no library.

    >>> address("s3://bucket/prefix/", Path("checkpoints/digits"), "digits")
    's3://bucket/prefix/digits'
    """
    return str(folder) if store is None else f"{store.rstrip('/')}/{study}"


def open_store(address: str) -> Store:
    """Return the store at an address: a path, or a URL. Nothing is asked of it yet.

    Raises:
        CheckpointError: the library for its kind of store is missing.
    """
    protocol, separator, _ = address.partition("://")
    if not separator:
        return STORES[""](address)
    return STORES.get(protocol, STORES["*"])(address)


def study_store(store: str | None, folder: Path, study: str) -> Store:
    """Return the store of a study: its `folder`, or its place in the object store that is named.

    Nothing is asked of the store yet; see `Store.claim`.

    >>> study_store(None, Path("checkpoints/digits"), "digits").address
    'checkpoints/digits'

    Raises:
        CheckpointError: `store` is no URL of an object store, or the library for it is missing.
    """
    # the master has looked, but a worker got it from Redis
    if store is not None and (wrong := problem_with(store)):
        raise CheckpointError(f"[checkpoints] store {wrong}")
    return open_store(address(store, folder, study))
