"""Owns how the validation part of a trial compares with the part that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

#: So many of the last epochs are compared: of one alone little can be said.
_EPOCHS = 3


@dataclass(frozen=True)
class Gap:
    """Shares of right or wrong answers on both parts, by epoch, from 0 to 1; more is better."""

    name: str
    train: Sequence[float]
    val: Sequence[float]

    @classmethod
    def of(cls, history: Sequence[Mapping[str, float]], metric: str, sign: int) -> Gap | None:
        """Return that of the study's metric, else of the accuracy; None where neither is a share.

        One that is minimized is a share only where it is called an error; one above 1 is in
        percent.
        """
        for validated, better in ((metric, sign), ("val_accuracy", 1)):
            name = validated.removeprefix("val_")
            pair = f"train_{name}", validated
            lines = [one for one in history[-_EPOCHS:] if all(key in one for key in pair)]
            train, val = ([line[key] for line in lines] for key in pair)
            most = max(train + val, default=-1.0)
            share = better > 0 or name.endswith(("error", "error_rate"))
            if not share or not 0 <= min(train + val, default=-1.0) <= most <= 100:
                continue
            unit, base = (100 if most > 1 else 1), (0 if better > 0 else 1)
            return cls(
                name, *([base + better * one / unit for one in some] for some in (train, val))
            )
        return None

    @property
    def least(self) -> float:
        """By how much validation is worse, in the epoch in which it is least so."""
        return min(a - b for a, b in zip(self.train, self.val, strict=True))

    @property
    def wide(self) -> bool:
        """Whether that is 8 points or more, and a quarter more mistakes.

        Of a model that knows little, a share of mistakes tells more than points do.
        """
        return self.least > max(0.08, 0.25 * (1 - fmean(self.train)))
