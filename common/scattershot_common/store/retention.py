"""Which checkpoints are kept: pure rules over names and values, without I/O.

Kept are the best and the last two checkpoints (should the last be damaged, the trial resumes from
the one before) of every active trial (waiting, running, paused, or complete while a later stage
may still continue it), of the study's best K trials, and of pinned trials (ensemble members). The
worker deletes its own trial's after every accepted report (`obsolete_checkpoints`); the master
those of whole trials as they end (`Retention`). Both go to `Store.delete`, where a file that is
already gone is no error.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping

from scattershot_common.objective import Objective
from scattershot_common.store.checkpoint_names import parse_name

_LARGER_IS_BETTER = Objective("value")


def obsolete_checkpoints(
    names: Iterable[str],
    accepted: Mapping[int, float],
    objective: Objective = _LARGER_IS_BETTER,
    pinned: Collection[str] = (),
) -> list[str]:
    """Return which of a trial's files can be deleted once its newest report has been accepted.

    `names` are the files in its folder, `accepted` maps every reported epoch to its metric, not
    rounded (the header's history). Kept are the best epoch (the earliest of equals), the last two
    that have a file, and all beyond the last report, whose own reports are still on the way.
    Values that are not finite have no file and never rank.

    >>> from scattershot_common.store.checkpoint_names import checkpoint_name
    >>> values = {1: 0.7, 2: 0.9, 3: 0.8, 4: 0.6, 5: 0.5}
    >>> names = [checkpoint_name("a", value, 17, epoch) for epoch, value in values.items()]
    >>> obsolete_checkpoints(names, values)
    ['a=0.70000-trial=00017-epoch=001.safetensors', 'a=0.80000-trial=00017-epoch=003.safetensors']
    """
    epochs = {name: parsed.epoch for name in names if (parsed := parse_name(name))}
    scores = {
        epoch: objective.score(accepted[epoch])
        for epoch in epochs.values()
        if math.isfinite(accepted.get(epoch, math.nan))
    }
    if not scores:
        return []
    *_, last = by_age = sorted(scores)
    best = max(scores, key=lambda epoch: (scores[epoch], -epoch))
    kept = {best, *by_age[-2:]}
    return [
        name
        for name, epoch in epochs.items()
        if epoch < last and epoch not in kept and name not in pinned
    ]


class Retention:
    """Which trials keep their files; updated event by event.

    Every event returns the trials whose files can be deleted because of it; each of them once.
    An event costs O(log K) comparisons, so that the 5,000th trial costs what the first did. Equal
    values rank by trial number, the lower first; a trial's value is the best it ever had.

    >>> retention = Retention(keep=1)
    >>> retention.ended(0, 0.8), retention.ended(1, 0.5), retention.ended(2, 0.9)
    ([], [1], [0])
    """

    def __init__(self, keep: int, objective: Objective = _LARGER_IS_BETTER) -> None:
        if keep < 0:
            raise ValueError(f"keep is the number of trials to keep, got {keep}")
        self._keep = keep
        self._objective = objective
        self._keys: dict[int, tuple[float, int]] = {}  # by trial; the smallest is the best
        self._top: list[tuple[float, int]] = []  # the best K of them, ascending
        self._ended: set[int] = set()  # trials that have ended and still have files
        self._pinned: set[int] = set()

    def active(self, trial: int, best_value: float = math.nan) -> list[int]:
        """A trial is active (again), or reported `best_value`: its files stay until it ends."""
        self._ended.discard(trial)
        return self._rank(trial, best_value)

    def ended(self, trial: int, best_value: float = math.nan) -> list[int]:
        """A trial is over for good: killed, failed, or complete and no later stage's candidate."""
        self._ended.add(trial)
        return self._rank(trial, best_value) + self._released(trial)

    def pin(self, trials: Iterable[int]) -> None:
        """Keep the files of `trials`, whatever becomes of them."""
        self._pinned.update(trials)

    def unpin(self, trials: Iterable[int]) -> list[int]:
        """Apply the usual rules to `trials` again."""
        trials = set(trials)
        self._pinned -= trials
        return [number for trial in sorted(trials) for number in self._released(trial)]

    def _rank(self, trial: int, value: float) -> list[int]:
        """Rank a value; NaN and infinities never rank. Returns the trial it released, if any."""
        key = (-self._objective.score(value), trial)
        old = self._keys.get(trial)
        if not math.isfinite(value) or (old is not None and old <= key):
            return []
        if old is not None and self._in_top(old):
            del self._top[bisect_left(self._top, old)]
        self._keys[trial] = key
        insort(self._top, key)
        if len(self._top) <= self._keep:
            return []
        _, out = self._top.pop()
        return self._released(out)

    def _in_top(self, key: tuple[float, int]) -> bool:
        # every ranked trial is in the top or behind all of it
        return bool(self._top) and key <= self._top[-1]

    def _released(self, trial: int) -> list[int]:
        """Return the trial if nothing keeps its files any more, and forget that it has any."""
        key = self._keys.get(trial)
        if trial not in self._ended or trial in self._pinned or (key and self._in_top(key)):
            return []
        self._ended.remove(trial)
        return [trial]
