"""Checkpoints in a folder: what is in them, which is the newest that holds, what a disk does."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from scattershot_common.errors import CheckpointError
from scattershot_common.local_files import clean_stale, write
from scattershot_common.store.checkpoint_header import MAX_HEADER, metadata, seal, verify
from scattershot_common.store.checkpoint_names import checkpoint_name, trial_key
from scattershot_common.store.local import LocalStore
from support.checkpoints import list_checkpoints, load, read_header, tensors, trial_folder

HEADER: dict[str, object] = {
    "study": "digits",
    "trial": 3,
    "attempt": 1,
    "epoch": 1,
    "params": {"lr": 0.1, "optimizer": "sgd", "note": '"checksum":"' + "0" * 32 + '" é'},
    "seed": 5,
    "metric": "acc",
    "goal": "maximize",
    "value": 0.5,
    "history": [{"epoch": 1, "acc": 0.5, "loss": math.nan, "val_loss": math.inf}],
}
TENSORS: dict[str, np.ndarray] = {
    "model.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "predictions.val": np.ones((2, 4), dtype=np.float16),
    "checksum": np.zeros(1, dtype=np.int64),
}


def sealed(**changes: object) -> bytes:
    return bytes(seal(save(TENSORS, metadata({**HEADER, **changes}))))


def put(study: Path, epoch: int, value: float = 0.5, attempt: int = 1) -> Path:
    path = trial_folder(study, 3) / checkpoint_name("acc", value, 3, epoch)
    write(path, sealed(epoch=epoch, attempt=attempt, value=value), sync=False)
    return path


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".tmp-*")]


# --- what is inside ---------------------------------------------------------------------------


def test_a_sealed_file_verifies_and_gives_its_header_back(tmp_path: Path) -> None:
    path = tmp_path / "x"
    data = sealed()
    path.write_bytes(data)
    assert load(path) == data
    header = read_header(path)
    assert header["format"] == 1
    assert {key: header[key] for key in HEADER if key != "history"} == {  # type: ignore[literal-required]
        key: HEADER[key] for key in HEADER if key != "history"
    }


def test_nan_and_infinity_in_a_history_survive(tmp_path: Path) -> None:
    (line,) = read_header(put(tmp_path, 1))["history"]
    assert math.isnan(line["loss"])
    assert line["val_loss"] == math.inf


def test_sealing_again_changes_nothing() -> None:
    data = sealed()
    assert seal(data) == data


def test_sealing_needs_the_metadata() -> None:
    with pytest.raises(ValueError, match=r"metadata\(header\)"):
        seal(save(TENSORS))


def test_every_single_bit_flip_is_detected() -> None:
    data = bytearray(sealed())
    assert verify(data)
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        assert not verify(data), f"bit {bit}"
        data[bit // 8] ^= 1 << bit % 8


def test_every_truncation_and_anything_appended_is_detected() -> None:
    data = memoryview(sealed())
    for length in range(len(data)):
        assert not verify(data[:length]), f"cut to {length}"
    assert not verify(bytes(data) + b"\0")


@settings(max_examples=50)
@given(st.binary(max_size=300), st.lists(st.floats(), max_size=5), st.data())
def test_any_content_verifies_until_a_bit_or_its_length_changes(
    payload: bytes, losses: list[float], draw: st.DataObject
) -> None:
    header = {**HEADER, "history": [{"loss": loss} for loss in losses]}
    tensors: dict[str, np.ndarray] = {"x": np.frombuffer(payload, dtype=np.uint8)}
    data = seal(save(tensors, metadata(header)))
    assert verify(data)
    assert not verify(data[: draw.draw(st.integers(0, len(data) - 1))])
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    data[bit // 8] ^= 1 << bit % 8
    assert not verify(data)


def test_a_header_with_a_flipped_bit_is_read_or_refused_but_never_crashes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    data = bytearray(sealed())
    for bit in range(0, 8 * len(data), 3):
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        try:
            read_header(path)
        except CheckpointError as error:
            assert str(path) in str(error)


def framed(text: str, payload: bytes = b"") -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        (2**63).to_bytes(8, "little") + b"{}",
        framed("{}"),
        framed("[]"),
        framed("7"),
        framed("not json"),
        framed('{"__metadata__":{"scattershot":"[]"}}'),
        framed('{"__metadata__":{"scattershot":"{}"}}'),
        framed('{"__metadata__":{"scattershot":7}}'),
        framed('{"__metadata__":{"scattershot":"{\\"format\\":1}"},"w":{"data_offsets":["a"]}}'),
        framed("[" * 100_000),
        framed("9" * 5_000),
        len(b"\xff\xfe").to_bytes(8, "little") + b"\xff\xfe",
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    for read in (read_header, load, lambda path: tensors(path, "")):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_file_of_a_newer_format_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(sealed(format=2))
    with pytest.raises(CheckpointError, match="format 2, this scattershot reads 1"):
        read_header(path)


def test_reading_a_header_notices_a_cut_payload(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(sealed()[:-1])
    with pytest.raises(CheckpointError, match="its header asks for"):
        read_header(path)
    path.write_bytes(sealed()[:100])
    with pytest.raises(CheckpointError, match="do not hold its header"):
        read_header(path)


def test_reading_a_header_reads_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "x"
    size = 2**40  # sparse; reading it would take memory that no machine here has
    text = json.dumps(
        {
            "__metadata__": metadata(HEADER),
            "w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        }
    )
    path.write_bytes(framed(text))
    try:
        os.truncate(path, 8 + len(text) + size)
    except OSError as error:
        pytest.skip(f"no sparse files of 1 TiB here: {error}")
    assert read_header(path)["trial"] == 3


def test_a_header_beyond_the_bound_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes((MAX_HEADER + 1).to_bytes(8, "little"))
    os.truncate(path, MAX_HEADER + 100)
    with pytest.raises(CheckpointError, match="do not hold its header"):
        read_header(path)


def test_only_the_tensors_asked_for_come_back(tmp_path: Path) -> None:
    found = tensors(put(tmp_path, 1), "predictions.")
    assert list(found) == ["predictions.val"]
    np.testing.assert_array_equal(found["predictions.val"], TENSORS["predictions.val"])


def test_tensors_of_a_damaged_file_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path, 1)
    flip(path)
    with pytest.raises(CheckpointError, match=r"damaged.*checkpoint before it is used"):
        tensors(path, "predictions.")


def test_the_store_needs_no_torch() -> None:
    code = (
        "import sys; from scattershot_common.store import open_store, retention; "
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# --- the newest that holds --------------------------------------------------------------------


def test_the_newest_checkpoint_is_found_with_its_header_and_bytes(tmp_path: Path) -> None:
    assert LocalStore(tmp_path).newest_valid(3) is None
    put(tmp_path, 1, 0.9)
    path = put(tmp_path, 2, 0.1)
    found = LocalStore(tmp_path).newest_valid(3)
    assert found is not None
    assert (found.name, found.header["epoch"]) == (path.name, 2)
    assert found.data == path.read_bytes()


def test_damaged_checkpoints_are_passed_over_and_told(tmp_path: Path) -> None:
    good, flipped, cut, empty = (put(tmp_path, epoch) for epoch in (1, 2, 3, 4))
    flip(flipped)
    os.truncate(cut, 100)
    os.truncate(empty, 0)
    told: list[str] = []
    found = LocalStore(tmp_path).newest_valid(3, on_damaged=lambda error: told.append(str(error)))
    assert found is not None
    assert found.name == good.name
    assert [str(path) in line for path, line in zip((empty, cut, flipped), told, strict=True)]
    os.truncate(good, 9)
    assert LocalStore(tmp_path).newest_valid(3) is None


def test_epochs_beyond_the_last_report_are_not_resumed_from(tmp_path: Path) -> None:
    paths = [put(tmp_path, epoch) for epoch in (1, 2, 3)]
    found = LocalStore(tmp_path).newest_valid(3, at_most=2)
    assert found is not None
    assert found.name == paths[1].name
    assert LocalStore(tmp_path).newest_valid(3, at_most=0) is None


def test_of_two_files_for_one_epoch_the_later_attempts_is_taken(tmp_path: Path) -> None:
    put(tmp_path, 2, 0.9, attempt=1)
    later = put(tmp_path, 2, 0.5, attempt=2)
    put(tmp_path, 2, 0.1, attempt=1)
    found = LocalStore(tmp_path).newest_valid(3)
    assert found is not None
    assert found.name == later.name


# --- on a disk ---------------------------------------------------------------------------------


WRITER = """
import sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save
from scattershot_common.store.checkpoint_header import metadata, seal
from scattershot_common.store.checkpoint_names import checkpoint_name, trial_key
from scattershot_common.store.local import LocalStore

store = LocalStore(Path(sys.argv[1]))
for epoch in range(1, 10**9):
    tensors = {"w": np.full(1 << 20, epoch, dtype=np.float32)}
    data = seal(save(tensors, metadata({"trial": 3, "epoch": epoch % 7})))
    store.write(trial_key(3, checkpoint_name("a", 0.5, 3, epoch % 7)), data)
"""


def test_a_writer_killed_at_any_instant_leaves_only_whole_files_under_final_names(
    tmp_path: Path,
) -> None:
    for round_ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
        try:
            before = {path: path.stat().st_mtime_ns for path in list_checkpoints(tmp_path, 3)}
            while (
                sum(
                    path.stat().st_mtime_ns != before.get(path)
                    for path in list_checkpoints(tmp_path, 3)
                )
                < 2 + round_ % 3
            ):
                assert writer.poll() is None, "the writer died by itself"
            while round_ % 2 and not leftovers(tmp_path):  # in the middle of a write
                assert writer.poll() is None, "the writer died by itself"
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert list_checkpoints(tmp_path, 3)
        for path in list_checkpoints(tmp_path, 3):
            assert verify(load(path))
            assert read_header(path)["trial"] == 3
        clean_stale(tmp_path, 0)
        assert leftovers(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 64 KiB, where one may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can only be mounted as root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_checkpoint_before_stays_usable(small_disk: Path) -> None:
    good = put(small_disk, 1)
    big = save({"w": np.zeros(1 << 16, dtype=np.uint8)}, metadata({"epoch": 2}))
    path = trial_folder(small_disk, 3) / checkpoint_name("acc", 0.5, 3, 2)
    with pytest.raises(CheckpointError, match="disk is full"):
        write(path, seal(big), sync=False)
    assert leftovers(small_disk) == []
    found = LocalStore(small_disk).newest_valid(3)
    assert found is not None
    assert found.name == good.name
    LocalStore(small_disk).delete([trial_key(3, good.name)])
    put(small_disk, 2)


def test_a_read_only_disk_is_told_and_can_still_be_read(small_disk: Path) -> None:
    path = put(small_disk, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointError, match="read-only"):
        put(small_disk, 2)
    with pytest.raises(CheckpointError, match="read-only"):
        LocalStore(small_disk).delete([trial_key(3, path.name)])
    assert LocalStore(small_disk).newest_valid(3) is not None


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    for read in (load, read_header):
        with pytest.raises(CheckpointError, match=r"no such file: .*moved or removed"):
            read(tmp_path / "x")


def test_removing_goes_on_past_files_already_gone_and_refused_ones(tmp_path: Path) -> None:
    path, store = put(tmp_path, 1), LocalStore(tmp_path)
    key = trial_key(3, path.name)
    with pytest.raises(CheckpointError, match="cannot remove"):
        store.delete(["gone", "trials", key])  # a folder is no file
    assert not path.exists()
    store.delete([key])
