"""Check of the data itself: values, labels, duplicates, and examples that the parts share.

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

#: Examples that are read of a loader, at most: it may never end.
_MAX_EXAMPLES = 50_000
#: Shares of constant features, duplicates and shared examples above which there is a warning.
_CONSTANT, _DUPLICATES, _SHARED = 0.1, 0.01, 0.01
#: Size of the largest class over the smallest, above which classes are imbalanced.
_IMBALANCE = 10.0
#: Standard deviations of inputs outside of which they count as not normalized.
_LARGE, _SMALL = 5.0, 0.05
#: The largest standard deviation of a feature over the median, above which scales differ.
_SCALES = 30.0

_WORST_FIRST: tuple[Status, ...] = ("fail", "warn", "pass")


@dataclass(frozen=True)
class _Observation:
    """One observation of the data; its status is "pass" if it is no problem."""

    status: Status
    text: str
    remedy: str = ""


@dataclass
class _Examples:
    """Examples of a part on the CPU: x [N, D], each example flat, y as they are."""

    x: np.ndarray
    y: Tensor
    #: Whether these are all examples of the part.
    complete: bool

    def hashes(self) -> list[bytes]:
        """Return a hash of every example's inputs."""
        x = np.ascontiguousarray(self.x + 0 if self.x.dtype.kind == "f" else self.x)  # -0.0 is 0.0
        return [blake2b(row, digest_size=16).digest() for row in x]


def check(under_test: TaskUnderTest) -> CheckResult:
    """Check every example of the training and the validation part."""
    train, val = _examples(under_test.data.train), _examples(under_test.data.val)
    numbers: dict[str, object] = {"train": len(train.y), "val": len(val.y)}
    outputs = under_test.outputs
    observations = [
        *_finite("training", train),
        *_finite("validation", val),
        *_inputs(train, numbers),
        *_duplicates(train, val, numbers),
    ]
    if under_test.task.kind == "regression":
        observations += _values(train, numbers)
    else:
        observations += _labels(
            _with_class_numbers(train), _with_class_numbers(val), outputs, numbers
        )
    if not (train.complete and val.complete):
        observations.append(
            _Observation("pass", f"only the first {_MAX_EXAMPLES:,} examples of a loader are read")
        )
    observations.sort(key=lambda observation: _WORST_FIRST.index(observation.status))
    found = f"{len(train.y):,} training and {len(val.y):,} validation examples"
    first = observations[0]
    if first.status == "pass":
        meaning = "No problem was found in them."
        details = tuple(observation.text for observation in observations)
        return CheckResult("data", "pass", found, meaning, details=details, numbers=numbers)
    details = tuple(
        ": ".join(filter(None, [other.text, other.remedy])) for other in observations[1:]
    )
    meaning = f"{first.text[0].upper()}{first.text[1:]}."
    return CheckResult("data", first.status, found, meaning, first.remedy, details, numbers)


def _examples(part: Part) -> _Examples:
    if is_tensors(part):
        x, y, complete = part[0], part[1], True
    else:
        xs, ys, count, complete = [], [], 0, True
        for batch_x, batch_y in part:
            if count >= _MAX_EXAMPLES:
                complete = False
                break
            xs.append(batch_x)
            ys.append(batch_y)
            count += len(batch_y)
        x, y = torch.cat(xs), torch.cat(ys)
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    return _Examples(x.detach().cpu().reshape(len(y), -1).numpy(), y.detach().cpu(), complete)


def _finite(name: str, part: _Examples) -> Iterator[_Observation]:
    for kind, values in (("inputs", part.x), ("targets", part.y.numpy())):
        if values.dtype.kind != "f":
            continue
        bad = ~np.isfinite(values).reshape(len(part.y), -1).all(1)
        if bad.any():
            yield _Observation(
                "fail",
                f"{int(bad.sum())} {name} examples have {kind} that are not finite, the first is "
                f"number {int(bad.argmax())}",
                "Fill them in or leave them out: one NaN makes every weight NaN.",
            )


def _inputs(train: _Examples, numbers: dict[str, object]) -> Iterator[_Observation]:
    x = train.x
    low, high = x.min(0), x.max(0)
    constant = int((low == high).sum())
    numbers |= {"features": x.shape[1], "constant_features": constant}
    if constant == x.shape[1]:
        yield _Observation(
            "fail", "all training inputs are the same", "Look at how data() reads them."
        )
        return
    if constant:
        status: Status = "warn" if constant > _CONSTANT * x.shape[1] else "pass"
        yield _Observation(
            status,
            f"{constant} of {x.shape[1]} features are the same in all training examples",
            "Leave them out, or look at why they are." if status == "warn" else "",
        )
    blank = int((x.min(1) == x.max(1)).sum()) if x.shape[1] > 1 else 0
    numbers["blank_examples"] = blank
    if blank:
        yield _Observation(
            "warn",
            f"{blank} training examples have the same value in every feature",
            "Look at them: an image that could not be read is often left empty.",
        )
    if x.dtype.kind != "f":
        yield _Observation("pass", f"inputs are {x.dtype}: normalization has no meaning for them")
        return
    with np.errstate(all="ignore"):  # `_finite` reports values that are not finite
        yield from _normalized(x, low < high, numbers)


def _normalized(
    x: np.ndarray, varies: np.ndarray, numbers: dict[str, object]
) -> Iterator[_Observation]:
    mean, deviation = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    numbers |= {"mean": mean, "deviation": deviation}
    remedy = (
        "Subtract the training part's mean and divide by its deviation, in the validation and "
        "test part as well."
    )
    if deviation > _LARGE or deviation < _SMALL or abs(mean) > deviation:
        yield _Observation(
            "warn",
            f"inputs are not normalized: mean {mean:.3g}, standard deviation {deviation:.3g}",
            remedy,
        )
        return
    deviations = x.std(0)[varies]
    ratio = float(deviations.max() / np.median(deviations))
    numbers["scales"] = ratio
    if ratio > _SCALES:
        yield _Observation(
            "warn",
            f"features are on different scales: one varies {ratio:.0f} times as much as most",
            remedy,
        )
        return
    yield _Observation(
        "pass", f"inputs have mean {mean:.2g} and standard deviation {deviation:.2g}"
    )


def _duplicates(
    train: _Examples, val: _Examples, numbers: dict[str, object]
) -> Iterator[_Observation]:
    if train.x.shape[1] != val.x.shape[1] or train.x.dtype != val.x.dtype:
        yield _Observation(
            "fail",
            f"training inputs are [{train.x.shape[1]}] {train.x.dtype}, validation inputs "
            f"[{val.x.shape[1]}] {val.x.dtype}",
            "Let data() prepare both alike.",
        )
        return
    keys = train.hashes()
    first: dict[bytes, int] = {}
    duplicates, contradicting = 0, 0
    for index, key in enumerate(keys):
        original = first.setdefault(key, index)
        if original != index:
            duplicates += 1
            contradicting += not torch.equal(train.y[original], train.y[index])
    shared = sum(key in first for key in val.hashes())
    numbers |= {"duplicates": duplicates, "contradicting": contradicting, "shared": shared}
    if duplicates:
        many = duplicates > _DUPLICATES * len(keys) or contradicting > 0
        other = f", {contradicting} of them with other targets" if contradicting else ""
        yield _Observation(
            "warn" if many else "pass",
            f"{duplicates} training examples are repeated{other}",
            "Look at them: copies count more than others, and targets that contradict cannot be "
            "learned."
            if many
            else "",
        )
    if shared:
        yield _Observation(
            "fail" if shared > _SHARED * len(val.y) else "warn",
            f"{shared} of {len(val.y)} validation examples are in the training part as well",
            "Take them out of one of the two: they make every trial look better than it is.",
        )


def _values(train: _Examples, numbers: dict[str, object]) -> Iterator[_Observation]:
    """Yield observations of a regression's targets."""
    y = train.y.double()
    mean, deviation = y.mean().item(), y.std().item()
    numbers |= {"target_mean": mean, "target_deviation": deviation}
    if not np.isfinite(deviation):  # reported by `_finite`
        return
    if deviation == 0:
        yield _Observation("fail", "all targets are the same", "Look at how data() reads them.")
    elif not 0.01 <= deviation <= 100 or abs(mean) > 10 * deviation:
        yield _Observation(
            "warn",
            f"targets are not normalized: mean {mean:.3g}, standard deviation {deviation:.3g}",
            "Subtract their mean and divide by their deviation; undo both in metrics().",
        )
    else:
        yield _Observation(
            "pass", f"targets have mean {mean:.2g} and standard deviation {deviation:.2g}"
        )


def _with_class_numbers(part: _Examples) -> _Examples:
    """Return a part whose targets, if they are not floats, are class numbers: -1 and 1 are two."""
    y = part.y
    if y.is_floating_point():
        return part
    signs = y.dtype != torch.bool and bool((y.long().abs() == 1).all()) and bool((y == -1).any())
    return replace(part, y=(y > 0).long() if signs else y.long())


def _labels(
    train: _Examples, val: _Examples, outputs: int | None, numbers: dict[str, object]
) -> Iterator[_Observation]:
    if train.y.is_floating_point():
        yield _Observation("pass", "targets are not class numbers: their range was not looked at")
        return
    for name, part in (("training", train), ("validation", val)):
        below = part.y[(part.y < 0) & (part.y != IGNORED)]
        above = part.y[part.y >= outputs] if outputs else part.y[:0]
        bad = torch.cat([below.flatten(), above.flatten()])
        if len(bad):
            valid = f"0 … {outputs - 1}" if outputs else "0 and above"
            yield _Observation(
                "fail",
                f"{len(bad)} {name} labels are out of range, as {int(bad[0])}: the network's are "
                f"{valid}",
                "Count classes from 0, or give the network an output for each.",
            )
    known = train.y[train.y >= 0].flatten()
    if not len(known):
        return
    counts = torch.bincount(known)
    present = counts[counts > 0]
    numbers |= {"classes": len(present), "class_counts": counts[:1000].tolist()}
    if len(present) == 1:
        yield _Observation(
            "fail", "all training labels are the same", "Look at how data() reads them."
        )
        return
    ratio = (present.max() / present.min()).item()
    share = (present.max() / present.sum()).item()
    largest = int(counts.argmax())
    if ratio > _IMBALANCE:
        yield _Observation(
            "warn",
            f"classes are imbalanced: {int(present.max())} examples of class {largest}, "
            f"{int(present.min())} of the rarest; always answering {largest} is right in "
            f"{share:.0%}",
            "Report a metric that rare classes count in (metrics()), weight the loss, or draw "
            "rare classes more often.",
        )
    else:
        yield _Observation(
            "pass", f"{len(present)} classes, the largest {share:.0%} of the examples"
        )
    labels = val.y[val.y >= 0].unique().tolist()
    new = [label for label in labels if label >= len(counts) or not counts[label]]
    if new:
        yield _Observation(
            "warn",
            f"class {new[0]} occurs in the validation part only"
            + (f", and {len(new) - 1} more" if len(new) > 1 else ""),
            "Split the data at random, or by class.",
        )
