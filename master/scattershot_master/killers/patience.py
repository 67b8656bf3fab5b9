"""The patience rule: a trial whose metric has stopped improving is killed."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from scattershot_master.killers.killer import GO_ON, Curve, Killer, Peers, Verdict, best


@dataclass(frozen=True, kw_only=True)
class Patience(Killer):
    """Kills after `patience` epochs without a strict improvement; NaN and infinity are none."""

    patience: int = 5

    def judge(self, curve: Curve, peers: Peers) -> Verdict:
        """Judge by the trial's own curve; peers do not matter."""
        top = best(curve.values)
        since = curve.values.index(top) + 1 if isfinite(top) else 0
        if curve.epoch - since < self.patience:
            return GO_ON
        if since == 0:
            return Verdict("kill", f"patience rule: no finite value in {curve.epoch} epochs")
        return Verdict(
            "kill",
            f"patience rule: {self.show(top)} at epoch {since} was not bettered"
            f" in {curve.epoch - since} epochs",
        )
