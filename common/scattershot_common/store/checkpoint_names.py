"""Owns where a checkpoint lies and what it is called, so that sorted names are the leaderboard.

    checkpoints/digits/trials/00017/val_accuracy=0.93120-trial=00017-epoch=012.safetensors

The metric comes first with a fixed width: for values from 0 up to 10 (accuracies, most losses)
`sort -r` of the names puts the largest first, plain `sort` the smallest. From 10 on the number
grows by a digit, and negative values come out the wrong way round among themselves: there,
`scattershot top` is the leaderboard. Names round to five places; the header has exact values.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from scattershot_common.errors import CheckpointError
from scattershot_common.store import object_store

if TYPE_CHECKING:
    from upath import UPath

#: A `place.Location`; what is asked for one of a kind is answered with the same kind.
Somewhere = TypeVar("Somewhere", bound="Path | UPath")

SUFFIX = ".safetensors"
#: What a study may be called, as a pattern: its name is its folder's, and stands in Redis' keys.
#: The number at its end is that of a fresh start.
STUDY_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(-[0-9]{1,9})?"

#: Digits are bounded because names also come from Redis: int() refuses thousands of them.
_NAME = re.compile(
    r"(?P<metric>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})"
    r"=(?P<value>-?[0-9]{1,18}\.[0-9]{5}(?:e[+-][0-9]{2,3})?)"
    r"-trial=(?P<trial>[0-9]{5,18})"
    r"-epoch=(?P<epoch>[0-9]{3,18})" + re.escape(SUFFIX),
)


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """What a checkpoint's name says; `value` is rounded to five places."""

    metric: str
    value: float
    trial: int
    epoch: int


def is_study_name(name: str) -> bool:
    """Return whether a study may be called so: a plain folder's name that leads nowhere else.

    >>> [is_study_name(name) for name in ("digits-2", "../digits", "/tmp", "a\\0b", "", "..")]
    [True, False, False, False, False, False]
    """
    return re.fullmatch(STUDY_NAME, name) is not None


def checkpoint_name(metric: str, value: float, trial: int, epoch: int) -> str:
    """Return the file name of a trial's checkpoint after `epoch` epochs.

    Characters of the metric that a shell or another system may stumble over become "_", and it
    is cut at 80. From 1e9 on the value is written with an exponent. Raises ValueError for a value
    that is not finite (such an epoch leaves no checkpoint) and for negative numbers.

    >>> checkpoint_name("val_accuracy", 0.9312, trial=17, epoch=12)
    'val_accuracy=0.93120-trial=00017-epoch=012.safetensors'
    >>> checkpoint_name("val/loss", 12.5, trial=123456, epoch=1000)
    'val_loss=12.50000-trial=123456-epoch=1000.safetensors'
    """
    if not math.isfinite(value):
        raise ValueError(f"an epoch whose {metric} is {value} leaves no checkpoint")
    if trial < 0 or epoch < 0:
        raise ValueError(f"trial and epoch count from 0, got trial {trial}, epoch {epoch}")
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", metric)[:80]
    safe = re.sub(r"^[.-]|^$", "_", safe)  # neither hidden nor an option to `rm`
    number = f"{value:z.5f}" if abs(value) < 1e9 else f"{value:.5e}"
    return f"{safe}={number}-trial={trial:05d}-epoch={epoch:03d}{SUFFIX}"


def parse_name(name: str) -> CheckpointName | None:
    """Return what a bare file name says, or None if it is not a checkpoint's.

    >>> parse_name("val_accuracy=0.93120-trial=00017-epoch=012.safetensors")
    CheckpointName(metric='val_accuracy', value=0.9312, trial=17, epoch=12)
    >>> parse_name("../../etc/passwd") is None
    True
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    value = float(match["value"])
    if not math.isfinite(value):
        return None
    return CheckpointName(match["metric"], value, int(match["trial"]), int(match["epoch"]))


def trial_folder(study_folder: Somewhere, trial: int) -> Somewhere:
    """Return the folder of a trial's checkpoints; raises ValueError for a negative number.

    >>> trial_folder(Path("checkpoints/digits"), 17).as_posix()
    'checkpoints/digits/trials/00017'
    """
    if trial < 0:
        raise ValueError(f"trials count from 0, got {trial}")
    return cast(Somewhere, study_folder / "trials" / f"{trial:05d}")


def list_checkpoints(study_folder: Somewhere, trial: int) -> list[Somewhere]:
    """Return a trial's checkpoints by epoch, ascending; none where there is no folder yet.

    Nothing is opened, so damaged files are listed too. Raises CheckpointError where the folder
    cannot be read.
    """
    folder = trial_folder(study_folder, trial)
    parsed = ((parse_name(name), name) for name in _names(folder))
    ours = sorted((told.epoch, name) for told, name in parsed if told and told.trial == trial)
    return [cast(Somewhere, folder / name) for _, name in ours]


def list_trials(study_folder: Path | UPath) -> list[int]:
    """Return the numbers of the trials that have a folder; raises like `list_checkpoints`."""
    return sorted(int(name) for name in _names(study_folder / "trials") if name.isdigit())


def list_all(study_folder: Somewhere) -> dict[int, list[Somewhere]]:
    """Return every trial's checkpoints, in no order; of an object store by one listing."""
    if isinstance(study_folder, Path):
        numbers = list_trials(study_folder)
        return {number: list_checkpoints(study_folder, number) for number in numbers}
    found: dict[int, list[Somewhere]] = {}
    for path in object_store.below(study_folder / "trials"):
        told = parse_name(path.name)
        if told and path.parent.name == f"{told.trial:05d}":
            found.setdefault(told.trial, []).append(cast(Somewhere, path))
    return found


def _names(folder: Path | UPath) -> list[str]:
    if not isinstance(folder, Path):
        return object_store.names(folder)
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(f"cannot list {folder}: {reason}; make it readable") from error


def is_checkpoint_of(trial: int, name: str) -> bool:
    """Return whether `name` is the bare file name of a checkpoint of the trial."""
    told = parse_name(name)
    return told is not None and told.trial == trial


def resolve(study_folder: Somewhere, trial: int, name: str) -> Somewhere:
    """Return the path of a checkpoint that a message names.

    A message carries a bare file name, never a path. Raises CheckpointError for anything that is
    not the name of one of this trial's checkpoints: separators, "..", absolute paths, others.
    """
    if not is_checkpoint_of(trial, name):
        raise CheckpointError(
            f"refused {name[:120]!r} as a checkpoint of trial {trial}: a message names it by its "
            "bare file name; look for whoever else writes to this Redis"
        )
    return cast(Somewhere, trial_folder(study_folder, trial) / name)
