"""Owns the look at the data itself: values, labels, doubles, and what the parts share.

Notes: "Data Preprocessing" in neural-networks-2. The test part stays untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from scattershot_common.task.check_result import CheckResult, Status
from scattershot_common.task.classification import IGNORED
from scattershot_common.task.task import Part
from scattershot_worker.checks.task_under_test import TaskUnderTest
from scattershot_worker.training.data import is_tensors

#: Of a loader no more examples than these are read: it may never end.
_MOST = 50_000
#: Shares above which something is worth a warning.
_CONSTANT, _DOUBLES, _SHARED = 0.1, 0.01, 0.01
#: The largest class over the smallest.
_IMBALANCE = 10.0
#: What inputs of mean 0 and deviation 1 should not stray from.
_LARGE, _SMALL = 5.0, 0.05
#: A feature's deviation over the median one.
_SCALES = 30.0

_ORDER: tuple[Status, ...] = ("fail", "warn", "pass")


@dataclass(frozen=True)
class _Finding:
    """One thing about the data; "pass" for what is only worth knowing."""

    status: Status
    said: str
    remedy: str = ""


@dataclass
class _Examples:
    """The examples of a part on the CPU: x [N, D] as numbers lie in memory, y as they are."""

    x: np.ndarray
    y: Tensor
    whole: bool

    def hashes(self) -> list[bytes]:
        """Return a hash of every example's inputs; equal inputs have equal ones."""
        x = np.ascontiguousarray(self.x + 0 if self.x.dtype.kind == "f" else self.x)  # -0.0 is 0.0
        return [blake2b(row, digest_size=16).digest() for row in x]


def check(subject: TaskUnderTest) -> CheckResult:
    """Look at every example of the training and the validation part."""
    train, val = _examples(subject.data.train), _examples(subject.data.val)
    numbers: dict[str, object] = {"train": len(train.y), "val": len(val.y)}
    outputs = subject.width
    findings = [
        *_finite("training", train),
        *_finite("validation", val),
        *_inputs(train, numbers),
        *_doubles(train, val, numbers),
    ]
    if subject.task.kind == "regression":
        findings += _values(train, numbers)
    else:
        findings += _labels(_numbered(train), _numbered(val), outputs, numbers)
    if not (train.whole and val.whole):
        findings.append(_Finding("pass", f"only the first {_MOST:,} examples of a loader are read"))
    findings.sort(key=lambda one: _ORDER.index(one.status))  # the worst first
    found = f"{len(train.y):,} training and {len(val.y):,} validation examples"
    first = findings[0]
    if first.status == "pass":
        meaning = "Nothing is wrong with them that can be seen from here."
        details = tuple(one.said for one in findings)
        return CheckResult("data", "pass", found, meaning, details=details, numbers=numbers)
    details = tuple(": ".join(filter(None, [one.said, one.remedy])) for one in findings[1:])
    meaning = f"{first.said[0].upper()}{first.said[1:]}."
    return CheckResult("data", first.status, found, meaning, first.remedy, details, numbers)


def _examples(part: Part) -> _Examples:
    if is_tensors(part):
        x, y, whole = part[0], part[1], True
    else:
        xs, ys, seen, whole = [], [], 0, True
        for one_x, one_y in part:
            if seen >= _MOST:
                whole = False
                break
            xs.append(one_x)
            ys.append(one_y)
            seen += len(one_y)
        x, y = torch.cat(xs), torch.cat(ys)
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    return _Examples(x.detach().cpu().reshape(len(y), -1).numpy(), y.detach().cpu(), whole)


def _finite(name: str, part: _Examples) -> Iterator[_Finding]:
    for what, values in (("inputs", part.x), ("targets", part.y.numpy())):
        if values.dtype.kind != "f":
            continue
        bad = ~np.isfinite(values).reshape(len(part.y), -1).all(1)
        if bad.any():
            yield _Finding(
                "fail",
                f"{int(bad.sum())} {name} examples have {what} that are not finite, the first is "
                f"number {int(bad.argmax())}",
                "Fill them in or leave them out: one NaN makes every weight NaN.",
            )


def _inputs(train: _Examples, numbers: dict[str, object]) -> Iterator[_Finding]:
    x = train.x
    low, high = x.min(0), x.max(0)
    constant = int((low == high).sum())
    numbers |= {"features": x.shape[1], "constant_features": constant}
    if constant == x.shape[1]:
        yield _Finding("fail", "all training inputs are the same", "Look at how data() reads them.")
        return
    if constant:
        status: Status = "warn" if constant > _CONSTANT * x.shape[1] else "pass"
        yield _Finding(
            status,
            f"{constant} of {x.shape[1]} features are the same in all training examples",
            "Leave them out, or look at why they are." if status == "warn" else "",
        )
    blank = int((x.min(1) == x.max(1)).sum()) if x.shape[1] > 1 else 0
    numbers["blank_examples"] = blank
    if blank:
        yield _Finding(
            "warn",
            f"{blank} training examples have the same value in every feature",
            "Look at them: an image that could not be read is often left empty.",
        )
    if x.dtype.kind != "f":
        yield _Finding("pass", f"inputs are {x.dtype}: normalization has no meaning for them")
        return
    with np.errstate(all="ignore"):  # values that are not finite are told of elsewhere
        yield from _normalized(x, low < high, numbers)


def _normalized(
    x: np.ndarray, varies: np.ndarray, numbers: dict[str, object]
) -> Iterator[_Finding]:
    mean, deviation = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    numbers |= {"mean": mean, "deviation": deviation}
    remedy = (
        "Subtract the training part's mean and divide by its deviation, in the validation and "
        "test part as well."
    )
    if deviation > _LARGE or deviation < _SMALL or abs(mean) > deviation:
        yield _Finding(
            "warn",
            f"inputs are not normalized: mean {mean:.3g}, standard deviation {deviation:.3g}",
            remedy,
        )
        return
    each = x.std(0)[varies]
    ratio = float(each.max() / np.median(each))
    numbers["scales"] = ratio
    if ratio > _SCALES:
        yield _Finding(
            "warn",
            f"features are on different scales: one varies {ratio:.0f} times as much as most",
            remedy,
        )
        return
    yield _Finding("pass", f"inputs have mean {mean:.2g} and standard deviation {deviation:.2g}")


def _doubles(train: _Examples, val: _Examples, numbers: dict[str, object]) -> Iterator[_Finding]:
    if train.x.shape[1] != val.x.shape[1] or train.x.dtype != val.x.dtype:
        yield _Finding(
            "fail",
            f"training inputs are [{train.x.shape[1]}] {train.x.dtype}, validation inputs "
            f"[{val.x.shape[1]}] {val.x.dtype}",
            "Let data() prepare both alike.",
        )
        return
    keys = train.hashes()
    first: dict[bytes, int] = {}
    again, contradicting = 0, 0
    for index, key in enumerate(keys):
        before = first.setdefault(key, index)
        if before != index:
            again += 1
            contradicting += not torch.equal(train.y[before], train.y[index])
    shared = sum(key in first for key in val.hashes())
    numbers |= {"duplicates": again, "contradicting": contradicting, "shared": shared}
    if again:
        many = again > _DOUBLES * len(keys) or contradicting > 0
        other = f", {contradicting} of them with other targets" if contradicting else ""
        yield _Finding(
            "warn" if many else "pass",
            f"{again} training examples are repeated{other}",
            "Look at them: copies count more than others, and targets that contradict cannot be "
            "learned."
            if many
            else "",
        )
    if shared:
        yield _Finding(
            "fail" if shared > _SHARED * len(val.y) else "warn",
            f"{shared} of {len(val.y)} validation examples are in the training part as well",
            "Take them out of one of the two: they make every trial look better than it is.",
        )


def _values(train: _Examples, numbers: dict[str, object]) -> Iterator[_Finding]:
    """Yield what there is to say of a regression's targets."""
    y = train.y.double()
    mean, deviation = y.mean().item(), y.std().item()
    numbers |= {"target_mean": mean, "target_deviation": deviation}
    if not np.isfinite(deviation):
        return
    if deviation == 0:
        yield _Finding("fail", "all targets are the same", "Look at how data() reads them.")
    elif not 0.01 <= deviation <= 100 or abs(mean) > 10 * deviation:
        yield _Finding(
            "warn",
            f"targets are not normalized: mean {mean:.3g}, standard deviation {deviation:.3g}",
            "Subtract their mean and divide by their deviation; undo both in metrics().",
        )
    else:
        yield _Finding(
            "pass", f"targets have mean {mean:.2g} and standard deviation {deviation:.2g}"
        )


def _numbered(part: _Examples) -> _Examples:
    """Return a part whose targets, if they are not floats, are class numbers: -1 and 1 are two."""
    y = part.y
    if y.is_floating_point():
        return part
    two = y.dtype != torch.bool and bool((y.long().abs() == 1).all()) and bool((y == -1).any())
    return replace(part, y=(y > 0).long() if two else y.long())


def _labels(
    train: _Examples, val: _Examples, outputs: int | None, numbers: dict[str, object]
) -> Iterator[_Finding]:
    if train.y.is_floating_point():
        yield _Finding("pass", "targets are not class numbers: their range was not looked at")
        return
    for name, part in (("training", train), ("validation", val)):
        below = part.y[(part.y < 0) & (part.y != IGNORED)]
        above = part.y[part.y >= outputs] if outputs else part.y[:0]
        bad = torch.cat([below.flatten(), above.flatten()])
        if len(bad):
            there = f"0 … {outputs - 1}" if outputs else "0 and above"
            yield _Finding(
                "fail",
                f"{len(bad)} {name} labels are out of range, as {int(bad[0])}: the network's are "
                f"{there}",
                "Count classes from 0, or give the network an output for each.",
            )
    known = train.y[train.y >= 0].flatten()
    if not len(known):
        return
    counts = torch.bincount(known)
    present = counts[counts > 0]
    numbers |= {"classes": len(present), "class_counts": counts[:1000].tolist()}
    if len(present) == 1:
        yield _Finding("fail", "all training labels are the same", "Look at how data() reads them.")
        return
    ratio = (present.max() / present.min()).item()
    share = (present.max() / present.sum()).item()
    often = int(counts.argmax())
    if ratio > _IMBALANCE:
        yield _Finding(
            "warn",
            f"classes are imbalanced: {int(present.max())} examples of class {often}, "
            f"{int(present.min())} of the rarest; always answering {often} is right in {share:.0%}",
            "Report a metric that rare classes count in (metrics()), weight the loss, or draw "
            "rare classes more often.",
        )
    else:
        yield _Finding("pass", f"{len(present)} classes, the largest {share:.0%} of the examples")
    new = [int(one) for one in val.y[val.y >= 0].unique() if one >= len(counts) or not counts[one]]
    if new:
        yield _Finding(
            "warn",
            f"class {new[0]} occurs in the validation part alone"
            + (f", and {len(new) - 1} more" if len(new) > 1 else ""),
            "Split the data at random, or by class.",
        )
