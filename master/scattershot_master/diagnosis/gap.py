"""The generalization gap of a trial: how much worse its metric is on the validation part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scattershot_common.objective import Objective

#: The last epochs that are compared: a single one says little.
_EPOCHS = 3


@dataclass(frozen=True)
class Gap:
    """Shares on both parts, by epoch, from 0 to 1; larger is better."""

    name: str
    train: Sequence[float]
    val: Sequence[float]

    @classmethod
    def of(cls, history: Sequence[Mapping[str, float]], objective: Objective) -> Gap | None:
        """Return that of the study's metric, else of the accuracy; None where neither is a share.

        A minimized metric is a share only if it is named an error; values above 1 are percentages.
        """
        for candidate in (objective, Objective("val_accuracy")):
            name = candidate.metric.removeprefix("val_")
            pair = f"train_{name}", candidate.metric
            epochs = [line for line in history[-_EPOCHS:] if all(key in line for key in pair)]
            train, val = ([line[key] for line in epochs] for key in pair)
            largest = max(train + val, default=-1.0)
            maximized = candidate.sign > 0
            share = maximized or name.endswith(("error", "error_rate"))
            if not share or not 0 <= min(train + val, default=-1.0) <= largest <= 100:
                continue
            unit, base = (100 if largest > 1 else 1), (0 if maximized else 1)
            shares = (
                [base + candidate.score(value) / unit for value in part] for part in (train, val)
            )
            return cls(name, *shares)
        return None

    @property
    def smallest(self) -> float:
        """How much worse validation is, in the epoch where the difference is smallest."""
        return min(a - b for a, b in zip(self.train, self.val, strict=True))

    @property
    def wide(self) -> bool:
        """Whether `smallest` is 8 points or more, and a quarter more mistakes.

        For a model that makes many mistakes, their share says more than points do.
        """
        return self.smallest > max(0.08, 0.25 * (1 - fmean(self.train)))
