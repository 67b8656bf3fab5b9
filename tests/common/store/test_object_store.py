"""Checkpoints in an object store: the same as on a disk, seen through a real S3 protocol."""

import http.server
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import pytest
from safetensors.numpy import save

from scattershot_common.errors import CheckpointError, StoreUnreachable
from scattershot_common.store import open_store as location
from scattershot_common.store.checkpoint_header import metadata, seal
from scattershot_common.store.checkpoint_names import checkpoint_key, checkpoint_name, trial_key
from scattershot_common.store.open_store import open_store, study_store
from scattershot_common.store.store import Store
from support import s3_server
from support.s3_server import KEY, SECRET

WEIGHTS = np.arange(6, dtype=np.float32)


def sealed(epoch: int, attempt: int = 1, size: int = 6) -> bytearray:
    header = {"trial": 3, "attempt": attempt, "epoch": epoch, "history": []}
    tensors = {"model/weight": np.zeros(size, np.float32), "predictions": WEIGHTS}
    return seal(save(tensors, metadata(header)))


def put(study: Store, epoch: int, value: float = 0.5, attempt: int = 1, trial: int = 3) -> str:
    """Write a checkpoint; return its key."""
    key = trial_key(trial, checkpoint_name("acc", value, trial, epoch))
    study.write(key, sealed(epoch, attempt))
    return key


def name_of(key: str) -> str:
    return key.rpartition("/")[2]


def asking(study: Store) -> list[Callable[[], object]]:
    """Return every call that asks a store for something."""
    key = trial_key(3, checkpoint_name("acc", 0.5, 3, 1))
    return [
        lambda: study.write(key, b"x"),
        lambda: study.checkpoints(3),
        study.all_checkpoints,
        study.trials,
        lambda: study.load(key),
        lambda: study.header(key),
        lambda: study.tensors(key, ""),
        lambda: study.exists(key),
        lambda: study.delete([key]),
        lambda: study.newest_valid(3),
        lambda: study.claim("uid"),
    ]


class MemoryStore(Store):
    """All that a further kind of store has to do."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}

    def write(self, key: str, data: bytes | bytearray) -> None:
        self.files[key] = bytes(data)

    def read(self, key: str) -> bytes:
        if key not in self.files:
            raise CheckpointError(f"no such file: {self.path_of(key)}; it was moved or removed")
        return self.files[key]

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        yield io.BytesIO(self.read(key))

    def exists(self, key: str) -> bool:
        return key in self.files

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.files.pop(key, None)

    def names(self, folder: str) -> list[str]:
        below = (key.removeprefix(f"{folder}/") for key in self.files if key.startswith(folder))
        return [*{name.partition("/")[0] for name in below}]


@pytest.fixture(params=["disk", "s3", "row"])
def study(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store on a disk, an object store, and one by a row of the table: all must do the same."""
    if request.param == "disk":
        return study_store(None, tmp_path / "digits", "digits")
    if request.param == "row":
        monkeypatch.setattr(location, "STORES", {**location.STORES, "dict": MemoryStore})
        return study_store("dict://pre/fix", tmp_path, "digits")
    return study_store(request.getfixturevalue("bucket") + "/pre/fix", tmp_path, "digits")


@pytest.fixture
def store(bucket: str) -> Store:
    return study_store(bucket, Path(), "digits")


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


def test_a_checkpoint_comes_back_as_it_was_written(study: Store) -> None:
    key, data = "trials/00003/x", sealed(7)
    study.write(key, data)
    assert study.load(key) == study.read(key) == data
    assert study.header(key)["epoch"] == 7
    found = study.tensors(key, "predictions")
    assert list(found) == ["predictions"] and found["predictions"].tolist() == WEIGHTS.tolist()
    assert study.exists(key) and not study.exists("trials/00003/gone")


def test_writing_again_replaces_the_whole(study: Store) -> None:
    key = put(study, 7)
    study.write(key, b"shorter")
    study.flush()
    assert study.read(key) == b"shorter"


def test_a_trials_checkpoints_are_listed_by_epoch_and_nothing_else(study: Store) -> None:
    assert study.checkpoints(3) == [] and study.trials() == [] and study.all_checkpoints() == {}
    keys = [put(study, epoch, 1 / epoch) for epoch in (10, 9, 11)]
    other = put(study, 1, trial=12)
    study.write(trial_key(3, "error.txt"), b"Traceback")
    study.write("study.json", b"{}")
    assert study.checkpoints(3) == [name_of(keys[index]) for index in (1, 0, 2)]
    assert study.checkpoints(12) == [name_of(other)]
    assert study.trials() == [3, 12]
    everything = {trial: sorted(names) for trial, names in study.all_checkpoints().items()}
    assert everything == {3: sorted(map(name_of, keys)), 12: [name_of(other)]}
    assert checkpoint_key(12, name_of(other)) == other
    assert study.path_of(other) == f"{study.address}/{other}"


def test_the_newest_sound_checkpoint_is_found_and_the_damaged_are_told(study: Store) -> None:
    assert study.newest_valid(3) is None
    put(study, 1, 0.9)
    put(study, 2, 0.8, attempt=1)
    later = put(study, 2, 0.7, attempt=2)
    cut, flipped, empty = put(study, 3), put(study, 4), put(study, 5)
    study.write(cut, sealed(3)[:100])
    bent = sealed(4)
    bent[-1] ^= 1
    study.write(flipped, bent)
    study.write(empty, b"")
    told: list[str] = []
    found = study.newest_valid(3, on_damaged=lambda error: told.append(str(error)))
    assert found is not None and found.name == name_of(later)
    assert (found.header["epoch"], found.header["attempt"]) == (2, 2)
    damaged = zip((empty, flipped, cut), told, strict=True)
    assert all(study.path_of(key) in line for key, line in damaged)
    first = study.newest_valid(3, at_most=1)
    assert first is not None and first.header["epoch"] == 1


@pytest.mark.parametrize("data", [b"", b"\x01", (2**63).to_bytes(8, "little") + b"{}"])
def test_what_is_no_checkpoint_is_refused_in_one_line(study: Store, data: bytes) -> None:
    study.write("x", data)
    for read in (study.header, study.load, lambda key: study.tensors(key, "")):
        with pytest.raises(CheckpointError) as caught:
            read("x")
        assert study.path_of("x") in str(caught.value) and "\n" not in str(caught.value)


def test_removing_goes_through_all_and_what_is_gone_is_fine(study: Store) -> None:
    keys = [put(study, epoch) for epoch in (1, 2)]
    study.delete([keys[0], "gone", keys[1]])
    assert study.checkpoints(3) == []
    study.delete(keys)


def test_a_missing_checkpoint_is_an_error_of_its_own(study: Store) -> None:
    key = trial_key(3, checkpoint_name("acc", 0.5, 3, 1))
    for read in (study.header, study.load, lambda key: study.tensors(key, "")):
        with pytest.raises(CheckpointError, match=r"no such file: .*moved or removed") as caught:
            read(key)
        assert not isinstance(caught.value, StoreUnreachable)


def test_the_checkpoints_of_retired_trials_go_and_those_of_others_stay(study: Store) -> None:
    for trial in (1, 2, 3):
        put(study, 1, trial=trial)
    study.write(trial_key(1, "error.txt"), b"Traceback")
    study.retire([1, 3])
    study.settle(20)
    assert sorted(number for number, names in study.all_checkpoints().items() if names) == [2]
    assert study.exists(trial_key(1, "error.txt"))


# ---- a store's own


def test_a_write_is_one_put_of_the_whole(store: Store, calls: list[Any]) -> None:
    data = sealed(1)
    store.write("x", data)
    store.flush()
    assert [(method, about["Body"]) for method, about in calls] == [("put_object", data)]


def test_of_a_large_checkpoint_the_head_alone_is_read(store: Store, calls: list[Any]) -> None:
    store.write("x", sealed(7, size=1_000_000))
    calls.clear()
    assert store.header("x")["epoch"] == 7
    gets = [about["Range"] for method, about in calls if method == "get_object"]
    assert len(gets) == 1
    first, last = gets[0].removeprefix("bytes=").split("-")
    assert first == "0" and int(last) < 100_000


def test_a_header_longer_than_the_first_read_is_read_whole(store: Store) -> None:
    header = {"trial": 3, "epoch": 1, "history": [{"epoch": n, "loss": 0.5} for n in range(9000)]}
    data = seal(save({"w": np.zeros(10**6, np.float32)}, metadata(header)))
    store.write("x", data)
    assert len(store.header("x")["history"]) == 9000


def test_all_trials_are_listed_by_one_call(store: Store, calls: list[Any]) -> None:
    for trial in range(5):
        put(store, 1, trial=trial)
    calls.clear()
    assert sorted(store.all_checkpoints()) == [0, 1, 2, 3, 4]
    assert [method for method, _ in calls].count("list_objects_v2") <= 1 and len(calls) <= 1


def test_what_others_write_and_remove_is_seen_at_once(store: Store, s3: str) -> None:
    assert store.checkpoints(3) == []
    key = put(store, 1)
    code = (
        "import sys; from scattershot_common.store.open_store import open_store\n"
        "store, key = open_store(sys.argv[1]), sys.argv[2]\n"
        "store.delete([key]); store.write(key.replace('epoch=001', 'epoch=002'), b'')"
    )
    assert len(store.checkpoints(3)) == 1
    subprocess.run([sys.executable, "-c", code, store.address, key], check=True)
    assert [name[-15:-12] for name in store.checkpoints(3)] == ["002"]
    assert not store.exists(key)


def test_what_a_store_accepted_needs_no_flush(store: Store, calls: list[Any]) -> None:
    put(store, 1)
    calls.clear()
    store.flush()
    assert calls == []


def test_a_store_has_no_temp_files_to_clean(store: Store) -> None:
    store.write("trials/.tmp-1-aa", b"somebody's")
    assert store.clean_stale("trials", 0) == []
    assert store.exists("trials/.tmp-1-aa")


# ---- what can be wrong


def one_line(error: CheckpointError) -> str:
    text = str(error)
    assert "\n" not in text and KEY not in text and SECRET not in text
    return text


def test_a_bucket_that_is_not_there_is_named(bucket: str) -> None:
    writing, listing, *_, claiming = asking(open_store("s3://no-such-bucket/digits"))
    for call in (writing, listing, claiming):
        with pytest.raises(CheckpointError, match="there is no bucket 'no-such-bucket'") as caught:
            call()
        assert "make it" in one_line(caught.value)


def test_a_store_that_nobody_answers_for_is_told_from_a_damaged_file(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = study_store(bucket, Path(), "digits")
    put(store, 1)
    s3_server.use("http://127.0.0.1:9", monkeypatch)
    for call in asking(study_store(bucket, Path(), "digits")):
        with pytest.raises(StoreUnreachable, match="does not answer") as caught:
            call()
        assert "AWS_ENDPOINT_URL" in one_line(caught.value)


def test_missing_credentials_are_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    for call in asking(study_store(bucket, Path(), "digits")):
        with pytest.raises(CheckpointError, match=r"no credentials .*AWS_ACCESS_KEY_ID") as caught:
            call()
        assert not isinstance(caught.value, StoreUnreachable)
    monkeypatch.setenv("AWS_PROFILE", "nobodys")
    s3_server.forget()
    with pytest.raises(CheckpointError, match=r"no credentials .*nobodys"):
        study_store(bucket, Path(), "digits").exists("x")


class _Answer(http.server.BaseHTTPRequestHandler):
    """A store that answers everything with one error."""

    status, code = 403, "AccessDenied"
    asked: ClassVar[list[str]] = []

    def _answer(self) -> None:
        self.asked.append(self.path)
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
        asked: ClassVar[list[str]] = []

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
    store = study_store("s3://bucket", Path(), "digits")
    for call in (lambda: put(store, 1), lambda: store.checkpoints(3)):
        with pytest.raises(CheckpointError, match=says) as caught:
            call()
        assert f"No, {code}" in one_line(caught.value)
        assert isinstance(caught.value, StoreUnreachable) == passes


def test_removing_goes_on_after_what_a_store_refuses(
    answering: type[_Answer],
) -> None:
    with pytest.raises(CheckpointError, match="cannot remove s3://bucket/x: the store refused it"):
        open_store("s3://bucket").delete(["x", "y"])
    assert {path for path in answering.asked if path.startswith("/bucket/")} == {
        "/bucket/x",
        "/bucket/y",
    }
