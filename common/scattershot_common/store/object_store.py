"""Checkpoints in an object store: whole objects put, read, listed and deleted; errors explained.

A put is atomic by itself: readers see all of it or nothing. The store's library waits and tries
again by itself for some seconds; what it raises then comes out of here as a CheckpointError.
"""

from __future__ import annotations

import errno
import queue
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import IO, TYPE_CHECKING

from scattershot_common.errors import CheckpointError, StoreUnreachable
from scattershot_common.store.checkpoint_names import parse_name, trial_key
from scattershot_common.store.store import Store

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: One read takes this many bytes further than asked for: a header mostly needs no second one.
_READ_AHEAD = 1 << 16


class ObjectStore(Store):
    """A study's place in a store that fsspec knows (S3, GCS, Azure …), named by its URL.

    Nothing is asked of the store until a method is called; then it is connected to once.
    """

    def __init__(self, url: str) -> None:
        """Raises CheckpointError where the library for this kind of store is missing."""
        protocol = url.partition(":")[0]
        try:
            from fsspec import get_filesystem_class

            get_filesystem_class(protocol)
        except ImportError as error:
            extra = "scattershot[s3]" if protocol in ("s3", "s3a") else "fsspec"
            remedy = f"pip install '{extra}'"
            if extra == "fsspec":
                remedy += " and fsspec's library for it"
            raise CheckpointError(f"{protocol}:// needs a library ({error}): {remedy}") from error
        except Exception as error:
            raise CheckpointError(f"{url} cannot be used as a store: {error}") from error
        self.address = url
        self._retired: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._deleting = threading.Thread(target=self._delete_retired, name="retire", daemon=True)

    @cached_property
    def _opened(self) -> tuple[AbstractFileSystem, str]:
        """The file system, and the root's path in it."""
        from fsspec.core import url_to_fs

        # other processes write there, too: nothing may be remembered of what was listed
        system, root = url_to_fs(self.address, use_listings_cache=False)
        return system, root.rstrip("/")

    @contextmanager
    def _at(self, key: str, verb: str) -> Iterator[tuple[AbstractFileSystem, str]]:
        """Yield the file system and the path of `key` in it; whatever is raised is explained."""
        try:
            system, root = self._opened
            yield system, f"{root}/{key}"
        except CheckpointError:
            raise
        except Exception as error:  # there is no common class for what the libraries raise
            raise _explained(f"cannot {verb} {self.path_of(key)}", self.address, error) from error

    def write(self, key: str, data: bytes | bytearray) -> None:
        with self._at(key, "write") as (system, path):
            system.pipe_file(path, data)

    def read(self, key: str) -> bytes:
        with self._at(key, "read") as (system, path):
            return bytes(system.cat_file(path))

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        with (
            self._at(key, "read") as (system, path),
            system.open(path, "rb", block_size=_READ_AHEAD, cache_type="readahead") as file,
        ):
            yield file

    def exists(self, key: str) -> bool:
        with self._at(key, "look for") as (system, path):
            return bool(system.exists(path))

    def delete(self, keys: Iterable[str]) -> None:
        failed: list[CheckpointError] = []
        for key in keys:
            try:
                with self._at(key, "remove") as (system, path), suppress(FileNotFoundError):
                    system.rm_file(path)
            except CheckpointError as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def names(self, folder: str) -> list[str]:
        with self._at(folder, "list") as (system, path):
            try:
                listed = system.ls(path, detail=False)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return []
        return [name.rstrip("/").rpartition("/")[2] for name in listed]

    def all_checkpoints(self) -> dict[int, list[str]]:
        """Return the names of every trial's checkpoints, in no order; by one listing."""
        checkpoints: dict[int, list[str]] = {}
        for key in self._below("trials"):
            folder, _, name = key.rpartition("/")
            parsed = parse_name(name)
            if parsed and folder == trial_key(parsed.trial):
                checkpoints.setdefault(parsed.trial, []).append(name)
        return checkpoints

    def _below(self, folder: str) -> list[str]:
        """Return the keys of all objects below `folder`."""
        with self._at(folder, "list") as (system, path):
            listed = system.find(path)
        start = path.removesuffix(folder)
        return [name.removeprefix(start) for name in listed if name.startswith(f"{path}/")]

    def retire(self, trials: Iterable[int]) -> None:
        """Delete all checkpoints of trials in the background: the store answers slowly."""
        for trial in trials:
            self._retired.put(trial)
            if not self._deleting.is_alive():
                self._deleting.start()

    def settle(self, timeout_s: float) -> None:
        if self._deleting.is_alive():
            self._retired.put(None)
            self._deleting.join(timeout_s)

    def _delete_retired(self) -> None:
        retired: set[int | None] = set()
        while None not in retired:
            retired = {self._retired.get()}
            with suppress(queue.Empty):
                while True:
                    retired.add(self._retired.get_nowait())
            with suppress(CheckpointError):
                names = self.all_checkpoints()
                trials = names.keys() & retired
                self.delete(trial_key(trial, name) for trial in trials for name in names[trial])


#: Names of errors, of which every library has classes of its own.
_AWAY = {
    "ClientConnectionError",
    "ConnectionError",
    "HTTPClientError",
    "TimeoutError",
}
_AWAY_CODES = {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EBUSY)}  # 503 and 500
_CREDENTIALS = re.compile(r"Credential|ProfileNotFound|Token|Auth")


def _explained(tried: str, address: str, error: Exception) -> CheckpointError:
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
            bucket = address.partition("://")[2].partition("/")[0]
            return CheckpointError(
                f"{tried}: there is no bucket {bucket!r}; make it, or correct [checkpoints] store"
            )
        return CheckpointError(f"no such file: {tried}; it was moved or removed")
    kind = type(error).__name__
    return CheckpointError(f"{tried}: {kind}: {reason}; check [checkpoints] store")


def _no_bucket(error: FileNotFoundError) -> bool:
    """Return whether not the object is missing but all that should be around it."""
    return type(error.__cause__).__name__ == "NoSuchBucket"
