"""The divergence rule: a trial whose loss or metric is no longer finite, or explodes, is killed."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from scattershot_master.killers.killer import GO_ON, Curve, Killer, Peers, Verdict


@dataclass(frozen=True, kw_only=True)
class Diverged(Killer):
    """Kills at an epoch whose metric or loss is NaN or infinite, or whose loss has exploded.

    Exploded: above `factor` · max(1, |first finite loss|). The 1 is the size of an untrained
    network's loss (ln 10 = 2.3 for ten classes, 1 for regression on standardized targets): it
    keeps a trial that starts at 0.001 from being killed for a wobble to 0.02. (CS231n, "Babysitting
    the learning process": a loss that explodes or turns NaN means a learning rate too high.)
    """

    factor: float = 10.0

    def judge(self, curve: Curve, peers: Peers) -> Verdict:
        """Judge by the latest epoch; peers do not matter."""
        value, loss = curve.values[-1], curve.losses[-1]
        if not isfinite(value):
            return self._kill(curve, f"its metric is {self.show(value)}")
        if loss is None:
            return GO_ON
        if not isfinite(loss):
            return self._kill(curve, f"its loss is {loss}")
        first = next(x for x in curve.losses if x is not None and isfinite(x))
        limit = self.factor * max(1.0, abs(first))
        if loss <= limit:
            return GO_ON
        return self._kill(curve, f"loss {loss:.4g} is above {limit:.4g} (it began at {first:.4g})")

    def _kill(self, curve: Curve, why: str) -> Verdict:
        return Verdict("kill", f"diverged rule: {why} at epoch {curve.epoch}")
