"""Owns what an object store does: whole objects put, read, listed and deleted, errors told.

A put is atomic by itself: readers see all of it or nothing. The store's library waits and tries
again by itself for some seconds; what it raises then comes out of here as a CheckpointError.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from scattershot_common.errors import CheckpointError, StoreUnreachable

if TYPE_CHECKING:
    from upath import UPath

#: One read takes this many bytes further than asked for: a header mostly needs no second one.
_READ_AHEAD = 1 << 16


def put(path: UPath, data: bytes | bytearray) -> None:
    """Write a whole object."""
    with _told("write", path):
        path.fs.pipe_file(path.path, data)


def get(path: UPath) -> bytes:
    """Return a whole object."""
    with _told("read", path):
        return bytes(path.fs.cat_file(path.path))


@contextmanager
def opened(path: UPath) -> Iterator[IO[bytes]]:
    """Open an object of which only parts are read: no more than these are fetched."""
    with (
        _told("read", path),
        path.fs.open(path.path, "rb", block_size=_READ_AHEAD, cache_type="readahead") as file,
    ):
        yield file


def exists(path: UPath) -> bool:
    """Return whether there is such an object."""
    with _told("look for", path):
        return bool(path.fs.exists(path.path))


def delete(path: UPath) -> None:
    """Delete an object; one that is gone already is fine."""
    with _told("remove", path), suppress(FileNotFoundError):
        path.fs.rm_file(path.path)


def names(folder: UPath) -> list[str]:
    """Return the names of what lies in `folder`, directly; none where there is no such folder."""
    with _told("list", folder):
        try:
            listed = folder.fs.ls(folder.path, detail=False)
        except FileNotFoundError as error:
            if _no_bucket(error):
                raise
            return []
    return [one.rstrip("/").rpartition("/")[2] for one in listed]


def below(folder: UPath) -> list[UPath]:
    """Return all objects below `folder`, by one listing."""
    with _told("list", folder):
        found = folder.fs.find(folder.path)
    start = folder.path.rstrip("/") + "/"
    return [folder / one.removeprefix(start) for one in found if one.startswith(start)]


#: Names of errors, of which every library has classes of its own.
_AWAY = {
    "ClientConnectionError",
    "ConnectionError",
    "HTTPClientError",
    "TimeoutError",
}
_AWAY_CODES = {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EBUSY)}  # 503 and 500
_CREDENTIALS = re.compile(r"Credential|ProfileNotFound|Token|Auth")


@contextmanager
def _told(verb: str, path: UPath) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # there is no common class for what the libraries raise
        raise _refused(f"cannot {verb} {path}", path, error) from error


def _refused(tried: str, path: UPath, error: Exception) -> CheckpointError:
    """Return the error for the user: what the store said and what to do."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    reason = re.sub(r"//[^/\s]*@", "//", " ".join(str(error).split()))[:300]
    if kinds & _AWAY or getattr(error, "errno", None) in _AWAY_CODES:
        return StoreUnreachable(
            f"{tried}: the store does not answer ({reason}); check the network and the endpoint "
            "(AWS_ENDPOINT_URL where it is not Amazon's own)"
        )
    if isinstance(error, PermissionError):
        return CheckpointError(
            f"{tried}: the store refused it ({reason}); check the credentials, which need the "
            "rights to read, write, list and delete there"
        )
    if any(map(_CREDENTIALS.search, kinds)):
        return CheckpointError(
            f"{tried}: there are no credentials ({reason}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, for the master and every worker"
        )
    if isinstance(error, FileNotFoundError):
        if _no_bucket(error) or tried.startswith("cannot write"):
            bucket = path.path.lstrip("/").partition("/")[0]
            return CheckpointError(
                f"{tried}: there is no bucket {bucket!r}; make it, or correct [checkpoints] store"
            )
        return CheckpointError(f"no such file: {tried}; it was moved or removed")
    kind = type(error).__name__
    return CheckpointError(f"{tried}: {kind}: {reason}; check [checkpoints] store")


def _no_bucket(error: FileNotFoundError) -> bool:
    """Return whether not the object is missing but all that should be around it."""
    return type(error.__cause__).__name__ == "NoSuchBucket"
