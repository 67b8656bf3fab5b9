"""Files of this machine: written whole or not at all, on the disk when asked for, locked."""

import errno
import json
import math
import os
import threading
import time
from pathlib import Path

import pytest

from scattershot_common import local_files
from scattershot_common.errors import CheckpointError


def put(folder: Path, number: int) -> Path:
    path = folder / "trials" / "00003" / f"file-{number}"
    local_files.write(path, b"content", sync=False)
    return path


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".tmp-*")]


# --- writing ----------------------------------------------------------------------------------


def test_writing_replaces_a_file_and_makes_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    local_files.write(path, b"one", sync=False)
    local_files.write(path, bytearray(b"two"), sync=True)
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["c"]


def test_a_file_never_stands_half_written_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    seen: list[tuple[str, bytes, bool]] = []
    replace = os.replace

    def watched(source: str, target: Path) -> None:
        temp = Path(source)
        seen.append((temp.name, temp.read_bytes(), path.exists()))
        assert temp.parent == target.parent
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    local_files.write(path, b"whole", sync=False)
    ((name, data, stood),) = seen
    assert name.startswith(f".tmp-{os.getpid()}-")
    assert data == b"whole"
    assert not stood


def test_stale_temp_files_are_removed_and_fresh_ones_and_others_left(tmp_path: Path) -> None:
    path = put(tmp_path, 1)
    old, fresh = path.parent / ".tmp-1-aa", tmp_path / ".tmp-2-bb"
    for temp in (old, fresh):
        temp.write_bytes(b"torn")
    for stale in (old, path):
        os.utime(stale, (time.time() - 7200,) * 2)
    assert local_files.clean_stale(tmp_path, 3600) == [old]
    assert fresh.exists()
    assert path.exists()
    assert local_files.clean_stale(tmp_path / "nowhere", 0) == []


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "disk is full: .*free space"),
        (errno.EDQUOT, "disk is full: .*free space"),
        (errno.EROFS, "read-only: .*--out"),
        (errno.EACCES, "permission denied: .*--out"),
        (errno.EPERM, "not permitted: .*--out"),
        (errno.ENAMETOOLONG, "too long: .*shorten"),
        (errno.EIO, "Input/output error: .*check"),
    ],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_whatever_the_disk_refuses_has_a_remedy_and_leaves_no_temp_file(
    code: int, says: str, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"before")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(CheckpointError, match=says) as caught:
        local_files.write(path, b"after", sync=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"before"
    assert leftovers(tmp_path) == []


def test_an_interrupted_write_leaves_no_temp_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        local_files.write(tmp_path / "x", b"data", sync=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_write_permission_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="permission denied"):
        local_files.write(folder / "x", b"data", sync=False)


def test_a_name_the_disk_cannot_hold_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="too long"):
        local_files.write(tmp_path / ("x" * 300), b"data", sync=False)
    assert leftovers(tmp_path) == []


def test_json_is_written_whole_with_nan(tmp_path: Path) -> None:
    path = tmp_path / "ensemble" / "result.json"
    local_files.write_json(path, {"members": [1, 2], "gain": math.nan})
    back = json.loads(path.read_text())
    assert back["members"] == [1, 2]
    assert math.isnan(back["gain"])
    assert leftovers(tmp_path) == []


# --- fsync ------------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that were brought onto the disk, in order."""
    inodes: list[int] = []
    fsync = os.fsync

    def record(handle: int) -> None:
        inodes.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    return inodes


def test_a_synced_write_brings_file_and_folder_onto_the_disk(
    tmp_path: Path, synced: list[int]
) -> None:
    path = tmp_path / "x"
    local_files.write(path, b"data", sync=False)
    assert synced == []
    local_files.write(path, b"data", sync=True)
    assert synced == [path.stat().st_ino, tmp_path.stat().st_ino]


def test_a_flush_brings_every_noted_file_and_its_folders_onto_the_disk_once(
    tmp_path: Path, synced: list[int]
) -> None:
    syncer = local_files.Syncer()
    paths = [put(tmp_path, epoch) for epoch in (1, 2, 3)]
    for path in paths:
        syncer.note(path)
    syncer.note(paths[0])
    paths.pop().unlink()  # retention was faster
    syncer.flush()
    folder = tmp_path / "trials" / "00003"
    expected = [entry.stat().st_ino for entry in (*paths, folder.parent, folder)]
    assert synced == expected
    syncer.flush()
    assert synced == expected


def test_a_failed_sync_is_told_after_all_others_are_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncer = local_files.Syncer()
    paths = [put(tmp_path, epoch) for epoch in (1, 2)]
    for path in paths:
        syncer.note(path)
    bad, tried = paths[0].stat().st_ino, []

    def fail(handle: int) -> None:
        tried.append(os.fstat(handle).st_ino)
        if tried[-1] == bad:
            raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="disk is full: cannot sync"):
        syncer.flush()
    assert len(tried) == 4
    syncer.flush()
    assert len(tried) == 4


def test_a_file_system_that_cannot_sync_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        if os.fstat(handle).st_ino == tmp_path.stat().st_ino:
            raise OSError(errno.EINVAL, "invalid")

    monkeypatch.setattr(os, "fsync", fail)
    local_files.write(tmp_path / "x", b"data", sync=True)


def test_files_may_be_noted_while_others_are_flushed(tmp_path: Path) -> None:
    syncer = local_files.Syncer()
    failures: list[BaseException] = []

    def note() -> None:
        try:
            for number in range(20_000):
                syncer.note(tmp_path / f"gone-{number}")
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=note)
    writer.start()
    while writer.is_alive():
        syncer.flush()
    writer.join()
    syncer.flush()
    assert failures == []


# --- locks ------------------------------------------------------------------------------------


def test_a_lock_keeps_out_every_other_one_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_bytes(b"content")
    with path.open("ab") as owner:
        local_files.lock(owner)
        for shared in (False, True):
            with path.open("rb") as other, pytest.raises(BlockingIOError):
                local_files.lock(other, shared=shared)
    with path.open("rb") as one, path.open("rb") as two:
        local_files.lock(one, shared=True)
        local_files.lock(two, shared=True)
    assert path.read_bytes() == b"content"
