"""Owns fused trials: K trials of one signature trained as lanes of one program.

    probe(task, training, data)   which trials fit each other, or why one must train alone
    Engine                        admits lanes, trains and evaluates them, lets them go
    Tuner                         fused or alone, and how many lanes at a time

The numbers of a lane do not depend on how many there are, which they are, or when it came.
"""

from scattershot_worker.fused.engine import Engine
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.signature import NotFusable, Signature, probe
from scattershot_worker.fused.tuner import Plan, Tuner

__all__ = ["Engine", "Lane", "NotFusable", "Plan", "Signature", "Tuner", "probe"]
