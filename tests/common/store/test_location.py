import subprocess
import sys
from pathlib import Path

import pytest

import scattershot
from scattershot_common.errors import CheckpointError, StudyFileError
from scattershot_common.store import files, location
from scattershot_common.store.location import problem_with, root
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
    assert root(None, tmp_path, "digits") is tmp_path
    assert location.address(None, tmp_path, "digits") == str(tmp_path)
    assert location.at(str(tmp_path)) == tmp_path


def test_a_store_has_a_place_for_each_study(bucket: str) -> None:
    found = root(f"{bucket}/pre/fix/", Path("/out/digits-2"), "digits-2")
    assert str(found) == f"{bucket}/pre/fix/digits-2"
    assert str(found) == location.address(f"{bucket}/pre/fix/", Path("/out/digits-2"), "digits-2")
    assert str(location.at(str(found / "x"))) == f"{bucket}/pre/fix/digits-2/x"


@pytest.mark.parametrize("store", ["/etc", "file:///etc", "../x", f"s3://key:{SECRET}@bucket"])
def test_a_worker_takes_no_other_place_from_redis(store: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"\[checkpoints\] store must") as caught:
        root(store, tmp_path, "digits")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("missing", ["upath", "s3fs"])
def test_a_library_that_is_missing_is_named_with_the_extra_that_brings_it(missing: str) -> None:
    said = run(
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from pathlib import Path; from scattershot_common.store import location\n"
        "try: location.root('s3://bucket', Path(), 'digits')\n"
        "except location.CheckpointError as error: print(error)",
        missing,
    )
    assert said.endswith("pip install 'scattershot[s3]'") and "\n" not in said


@pytest.mark.parametrize("protocol", ["pigeon", "carrier-pigeon"])
def test_an_unknown_kind_of_store_is_an_error_of_one_line(protocol: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^{protocol}://x/digits cannot be used as a store"):
        root(f"{protocol}://x", Path(), "digits")


def test_a_study_on_a_disk_imports_nothing_for_stores() -> None:
    loaded = run(
        "import sys, scattershot as ss\n"
        "from scattershot_common.store import files, checkpoint_names\n"
        "from pathlib import Path; from scattershot_common.store import location\n"
        "here = location.root(None, Path('nowhere'), 'digits')\n"
        "files.newest_valid(here, 1); files.exists(here / 'x'); files.clean_stale(here, 0)\n"
        "print([one for one in ('fsspec', 'upath', 's3fs', 'botocore') if one in sys.modules])"
    )
    assert loaded == "[]"
    assert scattershot is not None


# ---- the claim


def test_a_place_belongs_to_the_first_study_that_claims_it(bucket: str) -> None:
    found = root(bucket, Path(), "digits")
    location.claim(found, "u1")
    location.claim(found, "u1")
    location.claim(root(bucket, Path(), "digits-2"), "u2")
    with pytest.raises(StudyFileError, match=r"holds the checkpoints of another study; .*name"):
        location.claim(found, "u2")
    location.claim(found, "u1")


@pytest.mark.parametrize("text", [b"", b"[]", b'{"uid": 7}', b"\xff"])
def test_a_place_that_somebody_wrote_to_is_not_taken(bucket: str, text: bytes) -> None:
    found = root(bucket, Path(), "digits")
    files.write(found / "study.json", text, sync=False)
    with pytest.raises(StudyFileError, match="another study"):
        location.claim(found, "u1")
    assert files.read(found / "study.json") == text
