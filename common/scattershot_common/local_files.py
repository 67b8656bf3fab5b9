"""Local files: atomic writes, grouped fsync, locks, probes of shared folders, disk errors."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from scattershot_common.errors import CheckpointError

#: Seconds after which a temp file's writer is taken for dead.
STALE = 3600.0
_TEMP = ".tmp-"
_PROBE = ".scattershot-look-"
_NONCE = re.compile(r"[0-9a-f]{32}")


def write(path: str | Path, data: bytes | bytearray, *, sync: bool) -> None:
    """Write a whole file or nothing: a temp file beside it takes its name once complete.

    Missing folders are made. `sync` also waits until file and folder are on the disk; without it
    a power cut may tear the file (a checkpoint's checksum tells). Raises CheckpointError with a
    remedy where the disk refuses, and leaves no temp file behind.
    """
    folder = os.path.dirname(path)
    temp = os.path.join(folder, f"{_TEMP}{os.getpid()}-{os.urandom(8).hex()}")
    try:
        try:
            with _create(temp) as file:
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
            _sync_folder(folder or ".")
    except OSError as error:
        raise disk_error("write", path, error) from error


def _create(path: str) -> IO[bytes]:
    """Return a new file, opened for writing; makes its folder where there is none."""
    try:
        return open(path, "xb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb")


def write_json(path: str | Path, obj: object, *, sync: bool = True) -> None:
    """Write `obj` as JSON the way `write` does; NaN and infinities as Python's tokens."""
    write(path, (json.dumps(obj, indent=2) + "\n").encode(), sync=sync)


class Syncer:
    """Brings written files onto the disk in groups: an fsync per epoch would cost more than it.

    `note` every file written without `sync`, `flush` every 2 s or so and at a trial's end. Both
    may be called from any thread.
    """

    def __init__(self) -> None:
        self._noted: set[str] = set()
        self._lock = threading.Lock()

    def note(self, path: str | Path) -> None:
        """Remember a file for the next `flush`."""
        with self._lock:
            self._noted.add(str(path))

    def flush(self) -> None:
        """Wait until all noted files that still exist, and their folders, are on the disk.

        Goes through all of them, then raises CheckpointError for the first that failed. What
        failed is not tried again: after a failed fsync the next one may claim success wrongly.
        """
        with self._lock:
            noted, self._noted = self._noted, set()
        parents = {os.path.dirname(path) for path in noted}
        # a new trial's folder is itself an entry of the one above
        folders = {folder or "." for path in parents for folder in (path, os.path.dirname(path))}
        failed: list[CheckpointError] = []
        for sync, paths in ((_sync, noted), (_sync_folder, folders)):
            for path in sorted(paths):
                try:
                    sync(path)
                except FileNotFoundError:
                    pass  # retention was faster
                except OSError as error:
                    failed.append(disk_error("sync", path, error))
        if failed:
            raise failed[0]


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: str) -> None:
    """Bring a folder's entries onto the disk, where its file system has a call for that."""
    try:
        _sync(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES, errno.ENOTSUP):
            raise


def clean_stale(folder: Path, older_than_s: float) -> list[Path]:
    """Remove and return temp files that a killed writer left in `folder` or below.

    `older_than_s` is in seconds since the last write, by this machine's clock: leave room for
    slow disks and for clocks that differ (an hour), or a living writer loses its file.
    """
    stale: list[Path] = []
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            with suppress(OSError):  # finished or removed meanwhile, or not ours to remove
                if name.startswith(_TEMP) and time.time() - path.stat().st_mtime >= older_than_s:
                    path.unlink()
                    stale.append(path)
    return stale


def lock(file: IO[bytes], *, shared: bool = False) -> None:
    """Lock an open file until it is closed or this process ends; returns or raises at once.

    A `shared` lock keeps exclusive ones out, and several may be held: it tells whether somebody
    holds the file exclusively, without creating it or keeping another such probe out.

    Raises:
        BlockingIOError: another process, or another open file of this one, holds it.
        OSError: its file system has no locks.
    """
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def create_probe(root: Path) -> str:
    """Create a file in `root` whose name nobody can guess; return the nonce to look for.

    A fresh name, because a network file system remembers for a while which names were not there.
    Raises OSError where `root` cannot be written.
    """
    nonce = os.urandom(16).hex()
    (root / f"{_PROBE}{nonce}").write_text(nonce)
    return nonce


def check_probe(root: Path, nonce: str) -> str:
    """Return why `root` is not the folder of the probe with this nonce, or cannot be written.

    "" if it is and can. Accepts only what `create_probe` returns: the nonce comes from Redis.

    >>> check_probe(Path("/nowhere"), "../../etc/passwd")
    'asked for a name that is none'
    """
    if _NONCE.fullmatch(nonce) is None:
        return "asked for a name that is none"
    path = root / f"{_PROBE}{nonce}"
    try:
        if path.read_text() != nonce:
            return "its file has other contents"
    except FileNotFoundError:
        return "is another folder" if root.is_dir() else "is not there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    own = root / f"{_PROBE}{nonce}-{os.urandom(4).hex()}"
    try:
        own.write_text("")
        own.unlink()
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return ""


def remove_probe(root: Path, nonce: str) -> None:
    """Remove the files of `create_probe` and `check_probe`."""
    for path in root.glob(f"{_PROBE}{nonce}*"):
        with suppress(OSError):
            path.unlink()


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


def disk_error(verb: str, path: str | Path, error: OSError) -> CheckpointError:
    """Return the error for the user: what the disk refused ("cannot write x") and what to do."""
    default = f"{error.strerror or error}: {{}}; check the folder and its disk"
    return CheckpointError(_REMEDIES.get(error.errno or 0, default).format(f"cannot {verb} {path}"))
