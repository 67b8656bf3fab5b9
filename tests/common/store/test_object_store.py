"""Checkpoints in an object store: the same as on a disk, seen through a real S3 protocol."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from scattershot_common.errors import CheckpointError, StoreUnreachable
from scattershot_common.store import files, location
from scattershot_common.store.checkpoint_names import (
    checkpoint_name,
    list_all,
    list_checkpoints,
    list_trials,
    resolve,
    trial_folder,
)
from scattershot_common.store.location import Location
from support import s3_server
from support.s3_server import KEY, SECRET

WEIGHTS = np.arange(6, dtype=np.float32)


def sealed(epoch: int, attempt: int = 1, size: int = 6) -> bytearray:
    header = {"trial": 3, "attempt": attempt, "epoch": epoch, "history": []}
    tensors = {"model/weight": np.zeros(size, np.float32), "predictions": WEIGHTS}
    return files.seal(save(tensors, files.metadata(header)))


def put(
    study: Location, epoch: int, value: float = 0.5, attempt: int = 1, trial: int = 3
) -> Location:
    path = trial_folder(study, trial) / checkpoint_name("acc", value, trial, epoch)
    files.write(path, sealed(epoch, attempt), sync=False)
    return path


def asking(study: Location) -> list[Callable[[], object]]:
    """Return every call that asks a store for something."""
    path = trial_folder(study, 3) / checkpoint_name("acc", 0.5, 3, 1)
    return [
        lambda: files.write(path, b"x", sync=True),
        lambda: list_checkpoints(study, 3),
        lambda: list_all(study),
        lambda: list_trials(study),
        lambda: files.load(path),
        lambda: files.read_header(path),
        lambda: files.tensors(path, ""),
        lambda: files.exists(path),
        lambda: files.remove([path]),
        lambda: files.newest_valid(study, 3),
        lambda: location.claim(study, "uid"),
    ]


@pytest.fixture(params=["disk", "s3"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A study's place on a disk, then in a store: what follows must hold for both."""
    if request.param == "disk":
        return tmp_path / "digits"
    return location.root(request.getfixturevalue("bucket") + "/pre/fix", tmp_path, "digits")


@pytest.fixture
def store(bucket: str) -> Location:
    return location.root(bucket, Path(), "digits")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """What was asked of S3, with the arguments."""
    from s3fs import S3FileSystem

    asked: list[tuple[str, dict[str, Any]]] = []
    call = S3FileSystem._call_s3

    async def recorded(self: Any, method: str, *more: Any, **arguments: Any) -> Any:
        asked.append((method, {**{k: v for one in more for k, v in one.items()}, **arguments}))
        return await call(self, method, *more, **arguments)

    monkeypatch.setattr(S3FileSystem, "_call_s3", recorded)
    return asked


# ---- alike


def test_a_checkpoint_comes_back_as_it_was_written(study: Location) -> None:
    path, data = study / "x", sealed(7)
    files.write(path, data, sync=False)
    assert files.load(path) == files.read(path) == data
    assert files.read_header(path)["epoch"] == 7
    found = files.tensors(path, "predictions")
    assert list(found) == ["predictions"] and found["predictions"].tolist() == WEIGHTS.tolist()
    assert files.exists(path) and not files.exists(path.parent / "gone")


def test_writing_again_replaces_the_whole(study: Location) -> None:
    path = put(study, 7)
    files.write(path, b"shorter", sync=True)
    assert files.read(path) == b"shorter"


def test_a_trials_checkpoints_are_listed_by_epoch_and_nothing_else(study: Location) -> None:
    assert list_checkpoints(study, 3) == [] and list_trials(study) == [] and list_all(study) == {}
    paths = [put(study, epoch, 1 / epoch) for epoch in (10, 9, 11)]
    other = put(study, 1, trial=12)
    files.write(trial_folder(study, 3) / "error.txt", b"Traceback", sync=False)
    files.write(study / "study.json", b"{}", sync=False)
    assert [path.name for path in list_checkpoints(study, 3)] == [
        paths[index].name for index in (1, 0, 2)
    ]
    assert str(list_checkpoints(study, 12)[0]) == str(other)
    assert list_trials(study) == [3, 12]
    everything = {
        trial: sorted(str(path) for path in found) for trial, found in list_all(study).items()
    }
    assert everything == {3: sorted(map(str, paths)), 12: [str(other)]}
    assert str(resolve(study, 12, other.name)) == str(other)


def test_the_newest_sound_checkpoint_is_found_and_the_damaged_are_told(study: Location) -> None:
    assert files.newest_valid(study, 3) is None
    put(study, 1, 0.9)
    put(study, 2, 0.8, attempt=1)
    later = put(study, 2, 0.7, attempt=2)
    cut, flipped, empty = put(study, 3), put(study, 4), put(study, 5)
    files.write(cut, sealed(3)[:100], sync=False)
    bent = sealed(4)
    bent[-1] ^= 1
    files.write(flipped, bent, sync=False)
    files.write(empty, b"", sync=False)
    told: list[str] = []
    found = files.newest_valid(study, 3, on_damaged=lambda error: told.append(str(error)))
    assert found is not None and str(found.path) == str(later)
    assert (found.header["epoch"], found.header["attempt"]) == (2, 2)
    assert [str(path) in line for path, line in zip((empty, flipped, cut), told, strict=True)]
    first = files.newest_valid(study, 3, at_most=1)
    assert first is not None and first.header["epoch"] == 1


@pytest.mark.parametrize("data", [b"", b"\x01", (2**63).to_bytes(8, "little") + b"{}"])
def test_what_is_no_checkpoint_is_refused_in_one_line(study: Location, data: bytes) -> None:
    path = study / "x"
    files.write(path, data, sync=False)
    for read in (files.read_header, files.load, lambda path: files.tensors(path, "")):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_removing_goes_through_all_and_what_is_gone_is_fine(study: Location) -> None:
    paths = [put(study, epoch) for epoch in (1, 2)]
    files.remove([paths[0], study / "gone", paths[1]])
    assert list_checkpoints(study, 3) == []
    files.remove(paths)


def test_a_missing_checkpoint_is_an_error_of_its_own(study: Location) -> None:
    path = trial_folder(study, 3) / checkpoint_name("acc", 0.5, 3, 1)
    for read in (files.read_header, files.load, lambda path: files.tensors(path, "")):
        with pytest.raises(CheckpointError, match=r"no such file: .*moved or removed") as caught:
            read(path)
        assert not isinstance(caught.value, StoreUnreachable)


# ---- a store's own


def test_a_write_is_one_put_of_the_whole(store: Location, calls: list[Any]) -> None:
    data = sealed(1)
    files.write(store / "x", data, sync=True)
    assert [(method, about["Body"]) for method, about in calls] == [("put_object", data)]


def test_of_a_large_checkpoint_the_head_alone_is_read(store: Location, calls: list[Any]) -> None:
    path = store / "x"
    files.write(path, sealed(7, size=1_000_000), sync=False)
    calls.clear()
    assert files.read_header(path)["epoch"] == 7
    gets = [about["Range"] for method, about in calls if method == "get_object"]
    assert len(gets) == 1
    first, last = gets[0].removeprefix("bytes=").split("-")
    assert first == "0" and int(last) < 100_000


def test_a_header_longer_than_the_first_read_is_read_whole(store: Location) -> None:
    header = {"trial": 3, "epoch": 1, "history": [{"epoch": n, "loss": 0.5} for n in range(9000)]}
    data = files.seal(save({"w": np.zeros(10**6, np.float32)}, files.metadata(header)))
    files.write(store / "x", data, sync=False)
    assert len(files.read_header(store / "x")["history"]) == 9000


def test_all_trials_are_listed_by_one_call(store: Location, calls: list[Any]) -> None:
    for trial in range(5):
        put(store, 1, trial=trial)
    calls.clear()
    assert sorted(list_all(store)) == [0, 1, 2, 3, 4]
    assert [method for method, _ in calls].count("list_objects_v2") <= 1 and len(calls) <= 1


def test_what_others_write_and_remove_is_seen_at_once(store: Location, s3: str) -> None:
    assert list_checkpoints(store, 3) == []
    path = put(store, 1)
    code = (
        "import sys; from scattershot_common.store import files, location\n"
        "path = location.at(sys.argv[1]); files.remove([path])\n"
        "files.write(path.parent / path.name.replace('epoch=001', 'epoch=002'), b'', sync=False)"
    )
    assert len(list_checkpoints(store, 3)) == 1
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert [one.name[-15:-12] for one in list_checkpoints(store, 3)] == ["002"]
    assert not files.exists(path)


def test_a_syncer_leaves_a_stores_files_to_it(store: Location) -> None:
    syncer = files.Syncer()
    syncer.note(put(store, 1))
    syncer.flush()


def test_a_store_has_no_temp_files_to_clean(store: Location) -> None:
    files.write(store / ".tmp-1-aa", b"somebody's", sync=False)
    assert files.clean_stale(store, 0) == []
    assert files.exists(store / ".tmp-1-aa")


# ---- what can be wrong


def one_line(error: CheckpointError) -> str:
    text = str(error)
    assert "\n" not in text and KEY not in text and SECRET not in text
    return text


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    writing, listing, *_, claiming = asking(location.at("s3://no-such-bucket/digits"))
    for call in (writing, listing, claiming):
        with pytest.raises(CheckpointError, match="there is no bucket 'no-such-bucket'") as caught:
            call()
        assert "make it" in one_line(caught.value)


def test_a_store_that_nobody_answers_for_is_told_from_a_damaged_file(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = location.root(bucket, Path(), "digits")
    put(store, 1)
    s3_server.use("http://127.0.0.1:9", monkeypatch)
    for call in asking(location.root(bucket, Path(), "digits")):
        with pytest.raises(StoreUnreachable, match="does not answer") as caught:
            call()
        assert "AWS_ENDPOINT_URL" in one_line(caught.value)


def test_missing_credentials_are_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for call in asking(location.root(bucket, Path(), "digits")):
        with pytest.raises(CheckpointError, match=r"no credentials .*AWS_ACCESS_KEY_ID") as caught:
            call()
        assert not isinstance(caught.value, StoreUnreachable)
    monkeypatch.setenv("AWS_PROFILE", "nobodys")
    s3_server.forget()
    with pytest.raises(CheckpointError, match=r"no credentials .*nobodys"):
        files.exists(location.root(bucket, Path(), "digits"))


class _Answer(http.server.BaseHTTPRequestHandler):
    """A store that answers everything with one error."""

    status, code = 403, "AccessDenied"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = f"<Error><Code>{self.code}</Code><Message>No, {self.code}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Answer]]:
    class Answer(_Answer):
        pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        s3_server.use(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        yield Answer
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "code", "says", "passes"),
    [
        (403, "AccessDenied", "refused it .*rights", False),
        (403, "InvalidAccessKeyId", "refused it .*credentials", False),
        (403, "ExpiredToken", "refused it .*credentials", False),
        (503, "ServiceUnavailable", "does not answer", True),
        (500, "InternalError", "does not answer", True),
        (400, "InvalidArgument", "OSError: .*check .checkpoints. store", False),
    ],
)
def test_what_a_store_refuses_has_a_remedy(
    answering: type[_Answer], status: int, code: str, says: str, passes: bool
) -> None:
    answering.status, answering.code = status, code
    store = location.root("s3://bucket", Path(), "digits")
    for call in (lambda: put(store, 1), lambda: list_checkpoints(store, 3)):
        with pytest.raises(CheckpointError, match=says) as caught:
            call()
        assert f"No, {code}" in one_line(caught.value)
        assert isinstance(caught.value, StoreUnreachable) == passes


def test_removing_goes_on_after_what_a_store_refuses(
    answering: type[_Answer], tmp_path: Path
) -> None:
    here = put(tmp_path, 1)
    with pytest.raises(CheckpointError, match="cannot remove s3://bucket/x: the store refused it"):
        files.remove([location.at("s3://bucket/x"), here])
    assert not files.exists(here)
