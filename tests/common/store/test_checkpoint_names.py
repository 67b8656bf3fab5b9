"""Names of checkpoints: safe, sorted as the leaderboard, resolved within their trial's folder."""

import math
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scattershot_common.errors import CheckpointError
from scattershot_common.store.checkpoint_names import (
    CheckpointName,
    checkpoint_key,
    checkpoint_name,
    parse_name,
    trial_key,
)
from scattershot_common.store.local import LocalStore

ROOT = Path(__file__).parents[3]
NAME = "val_accuracy=0.93120-trial=00017-epoch=012.safetensors"
finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.integers(0, 10**9)


def sort(names: str, *options: str) -> list[str]:
    """Return the lines of `names` as the shell's `sort` puts them."""
    command, environment = ["sort", *options], {**os.environ, "LC_ALL": "C"}
    out = subprocess.run(
        command, input=names, env=environment, capture_output=True, text=True, check=True
    )
    return out.stdout.splitlines()


def test_the_name_is_the_one_of_the_design() -> None:
    assert checkpoint_name("val_accuracy", 0.9312, 17, 12) == NAME
    assert parse_name(NAME) == CheckpointName("val_accuracy", 0.9312, 17, 12)


def test_numbers_beyond_the_usual_width_are_written_in_full() -> None:
    name = checkpoint_name("loss", 123.4, 1_234_567, 98_765)
    assert name == "loss=123.40000-trial=1234567-epoch=98765.safetensors"
    assert parse_name(name) == CheckpointName("loss", 123.4, 1_234_567, 98_765)


@given(st.text(), finite, numbers, numbers)
def test_every_name_is_one_safe_file_name_that_parses_back(
    metric: str, value: float, trial: int, epoch: int
) -> None:
    name = checkpoint_name(metric, value, trial, epoch)
    assert len(name.encode()) <= 255
    assert not name.startswith((".", "-"))
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=+-")
    told = parse_name(name)
    assert told is not None
    assert (told.trial, told.epoch) == (trial, epoch)
    assert math.isclose(told.value, value, rel_tol=1e-5, abs_tol=0.5001e-5)
    assert (told.value == 0) == (value == 0)


@given(st.lists(st.tuples(st.integers(0, 999_999), st.integers(0, 99_999)), min_size=2))
def test_sorted_names_are_the_leaderboard(points: list[tuple[int, int]]) -> None:
    names = [checkpoint_name("acc", value / 1e5, trial, 3) for value, trial in points]
    told = [parse_name(name) for name in sorted(names, reverse=True)]
    values = [name.value for name in told if name]
    assert values == sorted((value / 1e5 for value, _ in points), reverse=True)


VALUES = [
    100.0,
    98.7,
    9.5,
    0.5,
    12.3,
    0.0,
    -0.5,
    -12.0,
    3.2e-7,
    3.1e-7,
    4.9e-6,
    -1e-9,
    0.00002,
    5e12,
]


@pytest.mark.parametrize("key", ["-k2,2g", "-k2,2gr"])
def test_the_sort_of_the_documentation_is_right_for_all_values(key: str) -> None:
    assert key in (ROOT / "docs/checkpoints.md").read_text()
    names = "".join(checkpoint_name("val_loss", value, 1, 1) + "\n" for value in VALUES)
    told = [parse_name(line) for line in sort(names, "-t=", key)]
    assert [name.value for name in told if name] == sorted(VALUES, reverse=key.endswith("r"))


def test_names_of_earlier_versions_are_read_as_they_were() -> None:
    for number in ("0.00000", "0.93120", "9.99999", "12.50000", "-0.50000", "1.50000e+09"):
        name = f"val_loss={number}-trial=00017-epoch=012.safetensors"
        assert parse_name(name) == CheckpointName("val_loss", float(number), 17, 12)


@given(st.floats(5.1e-6, 9.99999))
def test_names_from_0_to_10_have_five_places(value: float) -> None:
    assert checkpoint_name("a", value, 1, 1) == f"a={value:.5f}-trial=00001-epoch=001.safetensors"


def test_sort_r_of_the_shell_puts_the_best_first() -> None:
    values = [0.1, 9.99999, 0.93125, 0.9312, 1.0, 0.0]
    names = "".join(checkpoint_name("acc", value, 1, 1) + "\n" for value in values)
    told = [parse_name(line) for line in sort(names, "-r")]
    assert [name.value for name in told if name] == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("metric", "safe"),
    [
        ("val/top 5", "val_top_5"),
        ("../acc", "_._acc"),
        (".acc", "_acc"),
        ("-rf", "_rf"),
        ("", "_"),
        ("é=1", "__1"),
        ("a" * 300, "a" * 80),
    ],
)
def test_a_metrics_name_is_made_safe_for_files_and_shells(metric: str, safe: str) -> None:
    name = checkpoint_name(metric, 0.5, 1, 1)
    assert name == f"{safe}=0.50000-trial=00001-epoch=001.safetensors"
    assert parse_name(name) is not None


def test_zero_has_one_name_whatever_its_sign() -> None:
    zero = checkpoint_name("acc", 0.0, 1, 1)
    assert checkpoint_name("acc", -0.0, 1, 1) == zero


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_gets_no_name(value: float) -> None:
    with pytest.raises(ValueError, match="leaves no checkpoint"):
        checkpoint_name("acc", value, 1, 1)


def test_negative_numbers_are_refused() -> None:
    for trial, epoch in ((-1, 1), (1, -1)):
        with pytest.raises(ValueError, match="count from 0"):
            checkpoint_name("acc", 0.5, trial, epoch)
    with pytest.raises(ValueError, match="count from 0"):
        trial_key(-1)


HOSTILE = [
    "",
    "..",
    "../" + NAME,
    "/" + NAME,
    "/etc/passwd",
    "x/../" + NAME,
    "x\\" + NAME,
    ".tmp-12-ab",
    "." + NAME,
    NAME + "\n",
    NAME + "\0",
    NAME + ".bak",
    NAME.replace("00017", "17"),
    NAME.replace("00017", "٠٠٠١٧"),
    NAME.replace("012", "٠١٢"),
    NAME.replace("0.93120", "٠.93120"),
    NAME.replace("00017", "9" * 5000),
    NAME.replace("012", "9" * 5000),
    NAME.replace("0.93120", "nan"),
    NAME.replace("0.93120", "1.00000e+999"),
    NAME.replace("val_accuracy", "val/accuracy"),
    NAME.replace("val_accuracy", "a" * 100_000),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_checkpoints_name_is_neither_parsed_nor_resolved(name: str) -> None:
    assert parse_name(name) is None
    with pytest.raises(CheckpointError, match="refused") as caught:
        checkpoint_key(17, name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.text())
def test_resolving_any_text_stays_inside_the_trials_folder(text: str) -> None:
    study = Path("/study")
    for name in (text, text + NAME):
        try:
            path = study / checkpoint_key(17, name)
        except CheckpointError:
            continue
        assert path.parent == study / trial_key(17)


def test_a_bare_name_resolves_only_for_its_own_trial() -> None:
    assert checkpoint_key(17, NAME) == f"trials/00017/{NAME}"
    with pytest.raises(CheckpointError, match="trial 18"):
        checkpoint_key(18, NAME)


def test_checkpoints_are_listed_by_epoch_and_nothing_else_is(tmp_path: Path) -> None:
    assert LocalStore(tmp_path).checkpoints(3) == []
    folder = tmp_path / trial_key(3)
    folder.mkdir(parents=True)
    values = {1000: 0.1, 2: 0.9, 999: 0.5}
    for epoch, value in values.items():
        (folder / checkpoint_name("acc", value, 3, epoch)).touch()
    for other in (".tmp-1-ab", "notes.txt", checkpoint_name("acc", 0.5, 4, 7)):
        (folder / other).touch()
    told = [parse_name(name) for name in LocalStore(tmp_path).checkpoints(3)]
    assert [name.epoch for name in told if name] == [2, 999, 1000]


def test_a_folder_that_cannot_be_listed_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    (tmp_path / trial_key(3)).touch()
    with pytest.raises(CheckpointError, match="cannot list"):
        LocalStore(tmp_path).checkpoints(3)
