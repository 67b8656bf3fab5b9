"""Where a study's checkpoints lie: the setting, the store that it opens, and its owner."""

import subprocess
import sys
from pathlib import Path

import pytest

import scattershot
from scattershot_common.errors import CheckpointError, StudyFileError
from scattershot_common.store.local import LocalStore
from scattershot_common.store.open_store import address, open_store, problem_with, study_store
from scattershot_common.study.study_file import parse
from support.s3_server import SECRET

FOLDER = (
    "must be the URL of an object store, such as s3://bucket/prefix; a folder is chosen by --out"
)
FILE = """\
[study]
name = "digits"
task = "digits"
[space]
lr = 0.1
[[stage]]
name = "all"
trials = 1
epochs = 1
[checkpoints]
store = {store}
"""


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# ---- the setting


@pytest.mark.parametrize(
    "store",
    [
        "s3://bucket",
        "s3://bucket/a/b.c-d_e/",
        "gs://bucket/x",
        "abfs://container",
        "hdfs://h:8020/x",
    ],
)
def test_urls_of_object_stores_are_taken(store: str) -> None:
    assert problem_with(store) == ""
    assert parse(FILE.format(store=f'"{store}"')).checkpoints.store == store


@pytest.mark.parametrize(
    ("store", "says"),
    [
        (f"s3://key:{SECRET}@bucket/x", "credentials come from the environment"),
        (f"s3://{SECRET}@bucket/x", "credentials come from the environment"),
        (f"s3://key:{SECRET}/with/slash@bucket", "credentials come from the environment"),
        (f"abfs://container/x?sig={SECRET}", "credentials come from the environment"),
        (f"s3://bucket/x#{SECRET}", "credentials come from the environment"),
        ("checkpoints", FOLDER),
        ("/mnt/checkpoints", FOLDER),
        ("s3://", FOLDER),
        ("s3:///x", FOLDER),
        ("s3://bucket/a b", FOLDER),
        ("s3://bucket/../other", FOLDER),
        ("simplecache::s3://bucket", FOLDER),
        ("file:///etc", FOLDER),
        ("memory://x", FOLDER),
        ("", "must not be empty"),
    ],
)
def test_what_is_none_is_refused_with_its_line_and_no_secret_is_repeated(
    store: str, says: str
) -> None:
    with pytest.raises(StudyFileError) as caught:
        parse(FILE.format(store=f'"{store}"'))
    assert str(caught.value).startswith("study.toml:11: checkpoints.store: ")
    assert says in str(caught.value) and SECRET not in str(caught.value)


def test_where_the_checkpoints_lie_does_not_decide_the_trials() -> None:
    stored = parse(FILE.format(store='"s3://bucket"'))
    here = parse(FILE.replace("store = {store}", ""))
    assert here.checkpoints.store is None
    assert stored.identity() == here.identity()


# ---- the place


def test_without_a_store_the_studys_folder_is_the_place(tmp_path: Path) -> None:
    store = study_store(None, tmp_path, "digits")
    assert isinstance(store, LocalStore) and store.folder == tmp_path
    assert store.address == address(None, tmp_path, "digits") == str(tmp_path)
    opened = open_store(str(tmp_path))
    assert isinstance(opened, LocalStore) and opened.folder == tmp_path


def test_a_store_has_a_place_for_each_study(bucket: str) -> None:
    store = study_store(f"{bucket}/pre/fix/", Path("/out/digits-2"), "digits-2")
    assert store.address == f"{bucket}/pre/fix/digits-2"
    assert store.address == address(f"{bucket}/pre/fix/", Path("/out/digits-2"), "digits-2")
    store.write("x", b"content")
    assert open_store(store.address).read("x") == b"content"
    assert store.path_of("x") == f"{bucket}/pre/fix/digits-2/x"


@pytest.mark.parametrize("store", ["/etc", "file:///etc", "../x", f"s3://key:{SECRET}@bucket"])
def test_a_worker_takes_no_other_place_from_redis(store: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\[checkpoints\] store must") as caught:
        study_store(store, tmp_path, "digits")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_a_library_that_is_missing_is_named_with_the_extra_that_brings_it(missing: str) -> None:
    said = run(
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from pathlib import Path; from scattershot_common.store import open_store as location\n"
        "try: location.study_store('s3://bucket', Path(), 'digits')\n"
        "except location.CheckpointError as error: print(error)",
        missing,
    )
    assert said.endswith("pip install 'scattershot[s3]'") and "\n" not in said


@pytest.mark.parametrize("protocol", ["pigeon", "carrier-pigeon"])
def test_an_unknown_kind_of_store_is_an_error_of_one_line(protocol: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^{protocol}://x/digits cannot be used as a store"):
        study_store(f"{protocol}://x", Path(), "digits")


def test_a_study_on_a_disk_imports_nothing_for_stores() -> None:
    loaded = run(
        "import sys, scattershot as ss\n"
        "from scattershot_common.store import open_store as location\n"
        "from pathlib import Path\n"
        "here = location.study_store(None, Path('nowhere'), 'digits')\n"
        "here.newest_valid(1); here.exists('x'); here.clean_stale('', 0)\n"
        "print([one for one in ('fsspec', 'upath', 's3fs', 'botocore') if one in sys.modules])"
    )
    assert loaded == "[]"
    assert scattershot is not None


# ---- the claim


def test_a_place_belongs_to_the_first_study_that_claims_it(bucket: str) -> None:
    store = study_store(bucket, Path(), "digits")
    store.claim("u1")
    store.claim("u1")
    study_store(bucket, Path(), "digits-2").claim("u2")
    with pytest.raises(StudyFileError, match=r"holds the checkpoints of another study; .*name"):
        store.claim("u2")
    store.claim("u1")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"uid": 7}', b"\xff"])
def test_a_place_that_somebody_wrote_to_is_not_taken(bucket: str, text: bytes) -> None:
    store = study_store(bucket, Path(), "digits")
    store.write("study.json", text)
    with pytest.raises(StudyFileError, match="another study"):
        store.claim("u1")
    assert store.read("study.json") == text
