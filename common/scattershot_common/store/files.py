"""Owns what the disk does to checkpoints: whole files or none, grouped fsync, damage found.

Everything takes paths on a disk and in an object store alike; see `place` and `remote`.

Writing one takes the serializer of the side that has the tensors:

    data = files.seal(safetensors.torch.save(tensors, files.metadata(header)))
    files.write(folder / checkpoint_name(...), data, sync=False)
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from scattershot_common.errors import CheckpointError, StoreUnreachable
from scattershot_common.store import object_store
from scattershot_common.store.checkpoint_header import (
    MAX_HEADER,
    Header,
    damaged,
    metadata,
    parse,
    seal,
    verify,
)
from scattershot_common.store.checkpoint_names import list_checkpoints, parse_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import numpy as np

    from scattershot_common.store.location import Location

__all__ = [
    "STALE",
    "Checkpoint",
    "Header",
    "Syncer",
    "clean_stale",
    "exists",
    "load",
    "metadata",
    "newest_valid",
    "read",
    "read_header",
    "remove",
    "seal",
    "tensors",
    "verify",
    "write",
    "write_json",
]

#: Seconds after which a temp file's writer is taken for dead.
STALE = 3600.0
_TEMP = ".tmp-"


class Checkpoint(NamedTuple):
    """A checkpoint whose checksum holds; `data` is the whole file, ready for safetensors."""

    path: Location
    header: Header
    data: bytes


def write(path: Location, data: bytes | bytearray, *, sync: bool) -> None:
    """Write a whole file or nothing: a temp file beside it takes its name once complete.

    Missing folders are made. `sync` also waits until file and folder are on the disk; without it
    a power cut may tear the file, which its checksum tells. Raises CheckpointError with a remedy
    where the disk refuses, and leaves no temp file behind. In an object store it is one put.
    """
    if not isinstance(path, Path):
        object_store.put(path, data)
        return
    temp = os.path.join(os.path.dirname(path), f"{_TEMP}{os.getpid()}-{secrets.token_hex(8)}")
    try:
        try:
            with _created(temp) as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temp, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temp)
            raise
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        raise _refused("write", path, error) from error


def _created(path: str) -> IO[bytes]:
    """Return a new file, opened for writing; makes its folder where there is none."""
    try:
        return open(path, "xb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb")


def write_json(path: Location, obj: object, *, sync: bool = True) -> None:
    """Write `obj` as JSON the way `write` does; NaN and infinities as Python's tokens."""
    write(path, (json.dumps(obj, indent=2) + "\n").encode(), sync=sync)


class Syncer:
    """Brings written files onto the disk in groups: an fsync per epoch would cost more than it.

    `note` every file written without `sync`, `flush` every 2 s or so and at a trial's end. Both
    may be called from any thread.
    """

    def __init__(self) -> None:
        self._noted: set[Path] = set()
        self._lock = threading.Lock()

    def note(self, path: Location) -> None:
        """Remember a file for the next `flush`; what a store has accepted it keeps by itself."""
        if isinstance(path, Path):
            with self._lock:
                self._noted.add(path)

    def flush(self) -> None:
        """Wait until all noted files that still exist, and their folders, are on the disk.

        Goes through all of them, then raises CheckpointError for the first that failed. What
        failed is not tried again: after a failed fsync the next one may claim success wrongly.
        """
        with self._lock:
            noted, self._noted = self._noted, set()
        # a new trial's folder is itself an entry of the one above
        folders = {folder for path in noted for folder in (path.parent, path.parent.parent)}
        failed: list[CheckpointError] = []
        for sync, paths in ((_sync, noted), (_sync_folder, folders)):
            for path in sorted(paths):
                try:
                    sync(path)
                except FileNotFoundError:
                    pass  # retention was faster
                except OSError as error:
                    failed.append(_refused("sync", path, error))
        if failed:
            raise failed[0]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    """Bring a folder's entries onto the disk, where its file system has a call for that."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES, errno.ENOTSUP):
            raise


def exists(path: Location) -> bool:
    """Return whether there is such a file; raises CheckpointError where it cannot be told."""
    return path.exists() if isinstance(path, Path) else object_store.exists(path)


def read(path: Location) -> bytes:
    """Return a file's bytes, whatever they are; raises CheckpointError where it cannot be read."""
    if not isinstance(path, Path):
        return object_store.get(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _refused("read", path, error) from error


def read_header(path: Location) -> Header:
    """Return a checkpoint's header; of the file only its 8 length bytes and header are read.

    Notices a file that is cut, not an altered bit: only `load` sees the checksum's whole range.
    Raises CheckpointError for anything that is not a whole checkpoint of a known format.
    """
    try:
        with _opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_HEADER or 8 + length > size:
                raise damaged(path, f"its {size} bytes do not hold its header of {length}")
            return parse(path, file.read(length), size)
    except OSError as error:
        raise _refused("read", path, error) from error


def _opened(path: Location) -> AbstractContextManager[IO[bytes]]:
    return open(path, "rb") if isinstance(path, Path) else object_store.opened(path)


def load(path: Location) -> bytes:
    """Return a checkpoint's bytes; raises CheckpointError where they are not as sealed."""
    data = read(path)
    if not verify(data):
        raise damaged(path, f"its {len(data)} bytes do not match its checksum")
    return data


def tensors(path: Location, prefix: str | tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the tensors whose names start with `prefix`, of a checkpoint that is as sealed.

    Of several prefixes one is enough.

    Needs no torch; dtypes are numpy's own. Raises CheckpointError like `load`.
    """
    from safetensors import SafetensorError

    data = load(path)
    try:
        if isinstance(path, Path):
            return _picked(path, prefix)
        from tempfile import NamedTemporaryFile

        with NamedTemporaryFile() as copy:  # only files of this machine can be read in parts
            copy.write(data)
            copy.flush()
            return _picked(Path(copy.name), prefix)
    except OSError as error:
        raise _refused("read", path, error) from error
    except SafetensorError as error:
        raise damaged(path, str(error)) from error


def _picked(path: Path, prefix: str | tuple[str, ...]) -> dict[str, np.ndarray]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name: file.get_tensor(name) for name in names}


def newest_valid(
    study_folder: Location,
    trial: int,
    at_most: int | None = None,
    on_damaged: Callable[[CheckpointError], None] = lambda error: None,
) -> Checkpoint | None:
    """Return the trial's newest checkpoint that is as sealed, of epoch `at_most` or before.

    Every one that has to be passed over is told to `on_damaged`. Of two files for one epoch the
    later attempt's is taken: an earlier one comes from a worker that was given up for lost.
    Raises StoreUnreachable where not the checkpoint but the whole store is at fault.
    """
    newest_first = reversed(list_checkpoints(study_folder, trial))
    for epoch, twins in groupby(newest_first, key=_epoch):
        if at_most is not None and epoch > at_most:
            continue
        valid = []
        for path in twins:
            try:
                data = load(path)
                raw = data[8 : 8 + int.from_bytes(data[:8], "little")]
                valid.append(Checkpoint(path, parse(path, raw, len(data)), data))
            except StoreUnreachable:
                raise
            except CheckpointError as error:
                on_damaged(error)
        if valid:
            return max(valid, key=lambda found: found.header.get("attempt", 0))
    return None


def _epoch(path: Location) -> int:
    name = parse_name(path.name)
    assert name is not None  # from list_checkpoints
    return name.epoch


def remove(paths: Iterable[Location]) -> None:
    """Remove files; those already gone are fine.

    Goes through all of them, then raises CheckpointError for the first that would not go.
    """
    failed: list[CheckpointError] = []
    for path in paths:
        try:
            if isinstance(path, Path):
                path.unlink(missing_ok=True)
            else:
                object_store.delete(path)
        except CheckpointError as error:
            failed.append(error)
        except OSError as error:
            failed.append(_refused("remove", path, error))
    if failed:
        raise failed[0]


def clean_stale(folder: Location, older_than_s: float) -> list[Path]:
    """Remove and return temp files that a killed writer left in `folder` or below.

    In an object store there are none.

    `older_than_s` is in seconds since the last write, by this machine's clock: leave room for
    slow disks and for clocks that differ (an hour), or a living writer loses its file.
    """
    stale: list[Path] = []
    if not isinstance(folder, Path):
        return stale
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            with suppress(OSError):  # finished or removed meanwhile, or not ours to remove
                if name.startswith(_TEMP) and time.time() - path.stat().st_mtime >= older_than_s:
                    path.unlink()
                    stale.append(path)
    return stale


_FULL = "disk is full: {}; free space there, lower [checkpoints] keep, or use --out"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: "file system is read-only: {}; use --out with a folder that can be written",
    errno.EACCES: "permission denied: {}; change the folder's owner or mode, or use --out",
    errno.EPERM: "not permitted: {}; change the folder's owner or mode, or use --out",
    errno.ENAMETOOLONG: "file name is too long: {}; shorten the study's name or its folder's",
    errno.ENOENT: "no such file: {}; it was moved or removed",
}


def _refused(verb: str, path: Location, error: OSError) -> CheckpointError:
    """Return the error for the user: what the disk said and what to do."""
    tried = f"cannot {verb} {path}"
    default = f"{error.strerror or error}: {{}}; check the folder and its disk"
    return CheckpointError(_REMEDIES.get(error.errno or 0, default).format(tried))
