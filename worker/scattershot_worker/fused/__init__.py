"""Fused trials: K trials of one signature trained as lanes of one program.

    probe(task, training, data)   the signature of a trial, or why it must be trained alone
    FusedEngine                   admits lanes, trains and evaluates them, releases them
    Tuner                         decides fused or alone, and how many lanes at a time

The numbers of a lane do not depend on how many there are, which they are, or when it was admitted.
"""

from scattershot_worker.engine.engine import Signature
from scattershot_worker.fused.engine import FusedEngine
from scattershot_worker.fused.lane import Lane
from scattershot_worker.fused.signature import NotFusable, probe
from scattershot_worker.fused.tuner import Plan, Tuner

__all__ = ["FusedEngine", "Lane", "NotFusable", "Plan", "Signature", "Tuner", "probe"]
