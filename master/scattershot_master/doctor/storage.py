"""Probes of an output root: what its file system can do, and that workers see the same folder."""

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
from scattershot_common.local_files import create_probe, lock, remove_probe
from scattershot_master.doctor.probe_result import ProbeResult, fail, ok, warn

if TYPE_CHECKING:
    from redis import Redis

_SUBJECT = "storage"
_GIB = 2**30
#: An fsync slower than this (seconds) holds up short trials.
_SLOW = 0.2
_BLOCK = os.urandom(1 << 16)


def check(root: Path) -> Iterator[ProbeResult]:
    """Yield the results of all probes of an output root, or of the folder it would be made in."""
    existing = root
    while not existing.exists():
        existing = existing.parent
    observation = f"{root}" if existing == root else f"{root} (to be made in {existing})"
    try:
        folder = Path(tempfile.mkdtemp(prefix=".scattershot-doctor-", dir=existing))
    except OSError as error:
        yield fail(
            _SUBJECT,
            f"{observation} cannot be written: {error.strerror}",
            "change its owner or mode, or use --out",
        )
        return
    try:
        yield ok(_SUBJECT, f"{observation} can be written")
        yield rename(folder)
        yield sync(folder)
        yield locks(folder)
        yield space(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rename(folder: Path) -> ProbeResult:
    """Return whether a file can replace another at once: a checkpoint is whole or not there."""
    try:
        (folder / "old").write_text("old")
        (folder / "new").write_text("new")
        os.replace(folder / "new", folder / "old")
        if (folder / "old").read_text() == "new" and not (folder / "new").exists():
            return ok("rename", "a file takes another's place at once")
        observation = "a renamed file is not there"
    except OSError as error:
        observation = f"a file cannot take another's place: {error.strerror}"
    return fail(
        "rename", observation, "use another file system for --out: no checkpoint is safe on this"
    )


def sync(folder: Path) -> ProbeResult:
    """Return how long it takes until a file is on the disk."""
    times = []
    try:
        with (folder / "sync").open("wb") as file:
            for _ in range(5):
                start = time.perf_counter()
                file.write(_BLOCK)
                file.flush()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - start)
    except OSError as error:
        return fail("fsync", f"is refused: {error.strerror}", "use another file system for --out")
    median = statistics.median(times)
    observation = f"{median * 1000:.1f} ms for 64 KiB (median of {len(times)})"
    if median > _SLOW:
        return warn(
            "fsync", observation, "a nearer or a faster disk; each trial waits for it at its end"
        )
    return ok("fsync", observation)


def locks(folder: Path) -> ProbeResult:
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


def space(folder: Path) -> ProbeResult:
    """Return how much space is free."""
    subject, stat = "space", os.statvfs(folder)
    free, files = stat.f_bavail * stat.f_frsize, stat.f_favail
    observation = f"{free / _GIB:.1f} GiB free"
    if stat.f_files and files < 10_000:
        return warn(subject, f"{observation}, but only {files} files more", "free some inodes")
    if free < _GIB / 8:
        return fail(subject, observation, "free some space, or use --out")
    if free < 2 * _GIB:
        return warn(subject, observation, "free some space, or lower [checkpoints] keep")
    return ok(subject, observation)


def seen_by(
    connection: Redis, root: Path, workers: list[str], wait_s: float
) -> Iterator[ProbeResult]:
    """Ask each worker to look for a probe file in `root`; yield what they answer.

    Waits up to `wait_s` seconds for the last answer.
    """
    subject = "shared folder"
    try:
        nonce = create_probe(root)
    except OSError:
        return  # `check` has reported it
    try:
        ask_for_folder(connection, workers, nonce)
        end = time.monotonic() + wait_s
        answers: dict[str, FolderAnswer] = {}
        while len(answers) < len(workers) and time.monotonic() < end:
            time.sleep(0.02)
            answers = folder_answers(connection, nonce)
    finally:
        remove_probe(root, nonce)
    wrong = [
        f"{name}: its {answers[name].root} {answers[name].problem}"
        for name in workers
        if name in answers and answers[name].problem
    ]
    silent = [name for name in workers if name not in answers]
    if wrong:
        yield fail(
            subject,
            "; ".join(wrong),
            f"mount on all machines what {root.resolve()} is here, and name it with --out",
        )
    if silent:
        yield warn(
            subject,
            f"no answer within {wait_s:.0f} s from {', '.join(silent)}",
            "run doctor again; if they stay silent their file system hangs, or they are older",
        )
    if not wrong and not silent:
        yield ok(
            subject, f"{len(answers)} of {len(workers)} workers see {root} and can write to it"
        )


def study(folder: Path) -> Iterator[ProbeResult]:
    """Yield whether the study in `folder` can be continued."""
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
