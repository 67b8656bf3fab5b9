"""Owns the checks of an output root: what this file system does, and that workers see the same."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from scattershot_common.bus.workers import FolderAnswer, ask_for_folder, folder_answers
from scattershot_common.errors import CheckpointError, ScattershotError
from scattershot_common.local_files import lock
from scattershot_common.store import shared_folder
from scattershot_master.doctor.finding import Finding, fail, ok, warn

if TYPE_CHECKING:
    from redis import Redis

_ABOUT = "storage"
_GIB = 2**30
#: An fsync slower than this (seconds) holds up short trials.
_SLOW = 0.2
_BLOCK = os.urandom(1 << 16)


def check(root: Path) -> Iterator[Finding]:
    """Yield what there is to say of an output root, or of where it would be made."""
    place = root
    while not place.exists():
        place = place.parent
    found = f"{root}" if place == root else f"{root} (to be made in {place})"
    try:
        folder = Path(tempfile.mkdtemp(prefix=".scattershot-doctor-", dir=place))
    except OSError as error:
        yield fail(
            _ABOUT,
            f"{found} cannot be written: {error.strerror}",
            "change its owner or mode, or use --out",
        )
        return
    try:
        yield ok(_ABOUT, f"{found} can be written")
        yield rename(folder)
        yield sync(folder)
        yield locks(folder)
        yield space(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rename(folder: Path) -> Finding:
    """Return whether a file can take another's place: a checkpoint is whole or not there."""
    try:
        (folder / "old").write_text("old")
        (folder / "new").write_text("new")
        os.replace(folder / "new", folder / "old")
        if (folder / "old").read_text() == "new" and not (folder / "new").exists():
            return ok("rename", "a file takes another's place at once")
        found = "a renamed file is not there"
    except OSError as error:
        found = f"a file cannot take another's place: {error.strerror}"
    return fail("rename", found, "use another file system for --out: no checkpoint is safe on this")


def sync(folder: Path) -> Finding:
    """Return how long it takes until a file is on the disk."""
    took = []
    try:
        with (folder / "sync").open("wb") as file:
            for _ in range(5):
                begun = time.perf_counter()
                file.write(_BLOCK)
                file.flush()
                os.fsync(file.fileno())
                took.append(time.perf_counter() - begun)
    except OSError as error:
        return fail("fsync", f"is refused: {error.strerror}", "use another file system for --out")
    median = statistics.median(took)
    found = f"{median * 1000:.1f} ms for 64 KiB (median of {len(took)})"
    if median > _SLOW:
        return warn("fsync", found, "a nearer or a faster disk; each trial waits for it at its end")
    return ok("fsync", found)


def locks(folder: Path) -> Finding:
    """Return whether two masters on one study would notice each other."""
    path = folder / "lock"
    try:
        with path.open("wb") as first, path.open("rb") as second:
            lock(first)
            with suppress(BlockingIOError):
                lock(second, shared=True)
                return fail(
                    "locks",
                    "a lock on a file keeps nobody out",
                    "mount it with locks, and never run two masters on one study meanwhile",
                )
    except OSError as error:
        return fail(
            "locks",
            f"a file cannot be locked: {error.strerror}",
            "mount it with locks (nfs: without nolock), or use another file system for --out",
        )
    return ok("locks", "a second master on a study is kept out")


def space(folder: Path) -> Finding:
    """Return how much more there is room for."""
    about, stat = "space", os.statvfs(folder)
    free, files = stat.f_bavail * stat.f_frsize, stat.f_favail
    found = f"{free / _GIB:.1f} GiB free"
    if stat.f_files and files < 10_000:
        return warn(about, f"{found}, but only {files} files more", "free some inodes")
    if free < _GIB / 8:
        return fail(about, found, "free some space, or use --out")
    if free < 2 * _GIB:
        return warn(about, found, "free some space, or lower [checkpoints] keep")
    return ok(about, found)


def seen_by(connection: Redis, root: Path, workers: list[str], wait_s: float) -> Iterator[Finding]:
    """Ask each worker to look for a file that is hidden in `root`; yield what they say.

    Waits up to `wait_s` seconds for the last answer.
    """
    about = "shared folder"
    try:
        nonce = shared_folder.hide(root)
    except OSError:
        return  # `check` has told
    try:
        ask_for_folder(connection, workers, nonce)
        end = time.monotonic() + wait_s
        found: dict[str, FolderAnswer] = {}
        while len(found) < len(workers) and time.monotonic() < end:
            time.sleep(0.02)
            found = folder_answers(connection, nonce)
    finally:
        shared_folder.clean(root, nonce)
    wrong = [
        f"{name}: its {found[name].root} {found[name].problem}"
        for name in workers
        if name in found and found[name].problem
    ]
    silent = [name for name in workers if name not in found]
    if wrong:
        yield fail(
            about,
            "; ".join(wrong),
            f"mount on all machines what {root.resolve()} is here, and name it with --out",
        )
    if silent:
        yield warn(
            about,
            f"no answer within {wait_s:.0f} s from {', '.join(silent)}",
            "run doctor again; if they stay silent their file system hangs, or they are older",
        )
    if not wrong and not silent:
        yield ok(about, f"{len(found)} of {len(workers)} workers see {root} and can write to it")


def study(folder: Path) -> Iterator[Finding]:
    """Yield whether the study in `folder` can be gone on with."""
    from scattershot_master.state.ledger import read

    try:
        state = read(folder)
    except (ScattershotError, LookupError, TypeError, ValueError) as error:
        text = str(error) if isinstance(error, ScattershotError) else f"it cannot be read: {error}"
        yield fail("study", text, f"scattershot recover {folder}")
        return
    yield ok("study", f"{state.name}: {len(state.trials)} trials in {len(state.stages)} stages")
    if state.store is not None:
        try:
            count = len(state.checkpoints(folder).trials())
            yield ok("object store", f"{state.store} has checkpoints of {count} trials")
        except CheckpointError as error:
            yield fail("object store", str(error), "look at the bucket, and at the credentials")
