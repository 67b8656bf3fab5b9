"""The percentile rule: a trial among the worst of its peers at the same epoch is killed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, isfinite

from scattershot_master.killers.killer import GO_ON, Curve, Killer, Peers, Verdict


@dataclass(frozen=True, kw_only=True)
class Percentile(Killer):
    """Kills a trial whose best so far is worse than the `percentile`-th percentile of its peers'.

    Peers are the other trials of the stage that reached the same epoch, with their best up to it;
    with fewer than `min_peers` of them nothing is decided. A value equal to the percentile goes
    on. A trial whose value is NaN or infinite is killed however many peers it has.
    """

    percentile: float = 25.0
    min_peers: int = 5

    @property
    def bar(self) -> tuple[str, str]:
        """The rule's name and what it compares with, for the reason."""
        return "percentile", f"the {self.percentile:g}% percentile"

    def judge(self, curve: Curve, peers: Peers) -> Verdict:
        """Compare the trial's best so far with its peers' at the same epoch."""
        epoch, standing = curve.epoch, curve.standing
        rule, bar = self.bar
        if not isfinite(standing):
            value = self.show(curve.values[-1])
            return Verdict("kill", f"{rule} rule: its value at epoch {epoch} is {value}")
        others = peers.others(epoch, curve.trial)
        if len(others) < self.min_peers:
            return GO_ON
        least = quantile(others, self.percentile / 100)
        if standing >= least:
            return GO_ON
        return Verdict(
            "kill",
            f"{rule} rule: best {self.show(standing)} by epoch {epoch} is worse than"
            f" {self.show(least)}, {bar} of {len(others)} trials",
        )


def quantile(ranked: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the ascending `ranked` lies, interpolated.

    Minus infinity is allowed in `ranked` and never turns into NaN.

    >>> quantile([1.0, 2.0, 4.0], 0.5), quantile([float("-inf"), 2.0], 0.5)
    (2.0, -inf)
    """
    position = share * (len(ranked) - 1)
    below = floor(position)
    weight = position - below
    if weight == 0:
        return ranked[below]
    high = ranked[below + 1]
    return min((1 - weight) * ranked[below] + weight * high, high)  # rounding must not pass a tie
