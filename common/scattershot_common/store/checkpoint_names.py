"""Names of checkpoints and their keys in a store; sorted names are the leaderboard.

    checkpoints/digits/trials/00017/val_accuracy=0.93120-trial=00017-epoch=012.safetensors

The metric comes first, as a number that `LC_ALL=C sort -t= -k2,2gr` sorts by, largest first;
`-k2,2g` puts the smallest first. Names round to five places, very small and very large values to
six digits; the header has exact values. From 0 up to 10 the width is the same (but for values below
0.000005), so that plain `sort` does as well. `docs/checkpoints.md` describes all of a checkpoint.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from scattershot_common.errors import CheckpointError

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
    is cut at 80. The value has an exponent from 1e9 on, and where five places would make it 0.
    Raises ValueError for a value that is not finite (such an epoch leaves no checkpoint) and for a
    negative trial or epoch.

    >>> checkpoint_name("val_accuracy", 0.9312, trial=17, epoch=12)
    'val_accuracy=0.93120-trial=00017-epoch=012.safetensors'
    >>> checkpoint_name("val/loss", 12.5, trial=123456, epoch=1000)
    'val_loss=12.50000-trial=123456-epoch=1000.safetensors'
    >>> checkpoint_name("val_loss", 3.2e-7, trial=17, epoch=12)
    'val_loss=3.20000e-07-trial=00017-epoch=012.safetensors'
    """
    if not math.isfinite(value):
        raise ValueError(f"an epoch whose {metric} is {value} leaves no checkpoint")
    if trial < 0 or epoch < 0:
        raise ValueError(f"trial and epoch count from 0, got trial {trial}, epoch {epoch}")
    safe = re.sub(r"[^A-Za-z0-9_.-]", "_", metric)[:80]
    safe = re.sub(r"^[.-]|^$", "_", safe)  # neither hidden nor an option to `rm`
    number = f"{value:z.5f}"
    if abs(value) >= 1e9 or (value and float(number) == 0):
        number = f"{value:.5e}"
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


def trial_key(trial: int, name: str = "") -> str:
    """Return the key of a trial's folder in its store, or that of a file in it.

    Raises ValueError for a negative number.

    >>> trial_key(17), trial_key(17, "error.txt")
    ('trials/00017', 'trials/00017/error.txt')
    """
    if trial < 0:
        raise ValueError(f"trials count from 0, got {trial}")
    return f"trials/{trial:05d}/{name}" if name else f"trials/{trial:05d}"


def is_checkpoint_of(trial: int, name: str) -> bool:
    """Return whether `name` is the bare file name of a checkpoint of the trial."""
    parsed = parse_name(name)
    return parsed is not None and parsed.trial == trial


def checkpoint_key(trial: int, name: str) -> str:
    """Return the key of a checkpoint that a message names.

    A message carries a bare file name, never a path. Raises CheckpointError for anything that is
    not the name of one of this trial's checkpoints: separators, "..", absolute paths, others.
    """
    if not is_checkpoint_of(trial, name):
        raise CheckpointError(
            f"refused {name[:120]!r} as a checkpoint of trial {trial}: a message names it by its "
            "bare file name; look for whoever else writes to this Redis"
        )
    return trial_key(trial, name)
