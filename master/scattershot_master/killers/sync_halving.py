"""Synchronous halving: all trials wait at a rung, and the best 1/eta of them go on.

Jamieson & Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization". No trial is judged before all stand at the rung, so the result depends on the
values alone, never on the order or the timing of reports or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from scattershot_master.killers.halving import rungs
from scattershot_master.killers.killer import GO_ON, Killer, Verdict


@dataclass(frozen=True, kw_only=True)
class SyncHalving(Killer):
    """Promotes the best ceil(n/eta) of the n trials that stand at a rung; ties: the lower number.

    A NaN or infinite standing is never promoted, so fewer go on where too few are finite.
    """

    eta: int = 3

    def stops(self, budget: int) -> Sequence[int]:
        """Return the rungs: grace·eta^k below `budget`."""
        return rungs(self.grace, self.eta, budget)

    def settle(self, epoch: int, standings: Mapping[int, float]) -> Mapping[int, Verdict]:
        """Promote the best, kill the rest."""
        places = -(-len(standings) // self.eta)
        finite = [trial for trial, value in standings.items() if isfinite(value)]
        promoted = set(sorted(finite, key=lambda trial: (-standings[trial], trial))[:places])
        return {
            trial: GO_ON
            if trial in promoted
            else Verdict(
                "kill",
                f"sync_halving rule, rung {epoch}: {self.show(value)} is not among the best"
                f" {places} of {len(standings)}",
            )
            for trial, value in standings.items()
        }
