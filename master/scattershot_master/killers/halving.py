"""Asynchronous successive halving: a trial goes on past a rung in the best 1/eta so far.

Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning" (ASHA), in its stopping
variant: no trial waits, so one that is early at a rung is judged by the few that came before.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import isfinite

from scattershot_master.killers.killer import GO_ON, Curve, Killer, Peers, Verdict


def rungs(grace: int, eta: int, budget: int) -> list[int]:
    """Return the epochs grace·eta^k below `budget`.

    >>> rungs(1, 3, 27)
    [1, 3, 9]
    """
    epochs = []
    while grace < budget:
        epochs.append(grace)
        grace *= eta
    return epochs


@dataclass(frozen=True, kw_only=True)
class Halving(Killer):
    """Kills at a rung unless fewer than floor(n/eta) of the n trials there stand strictly better.

    With fewer than eta trials at the rung the trial goes on, and ties go on. A trial whose value
    is NaN or infinite is killed however many there are.
    """

    eta: int = 3

    def judge(self, curve: Curve, peers: Peers) -> Verdict:
        """Judge at the rung epochs only."""
        epoch, standing = curve.epoch, curve.standing
        if epoch not in rungs(self.grace, self.eta, curve.budget):
            return GO_ON
        if not isfinite(standing):
            value = self.show(curve.values[-1])
            return Verdict("kill", f"halving rule, rung {epoch}: its value is {value}")
        others = peers.others(epoch, curve.trial)
        reached = len(others) + 1
        places = reached // self.eta
        if places == 0 or len(others) - bisect_right(others, standing) < places:
            return GO_ON
        return Verdict(
            "kill",
            f"halving rule, rung {epoch}: {self.show(standing)} is not among the best {places}"
            f" of {reached} so far",
        )
