"""What a sampler is: it draws the points of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from scattershot_common.space.space import Box


class Observation(NamedTuple):
    """A trial of the study that has ended.

    `point` are its coordinates in the whole space (`Space.locate`; NaN for a parameter that does
    not exist there), `score` its best value, larger is better; NaN without one.
    """

    point: Sequence[float]
    score: float


class Sampler(Protocol):
    """Draws points of one stage. It is made anew for every draw, so it remembers nothing.

    What is drawn is written to the ledger, so a restart draws nothing again.
    """

    #: Whether the points depend on results, and so on the timing of workers. Only such a sampler
    #: gets a history.
    uses_history: bool

    def __init__(self, seed: int, stage: str, box: Box) -> None:
        """Take the study's seed, the stage's name, and the part of the space to draw from."""

    def ask(
        self, first: int, count: int, history: Sequence[Observation] = ()
    ) -> Sequence[Sequence[float]]:
        """Return points `first` to `first + count - 1` of the stage: `count` rows of d in [0, 1).

        They are stretched over the stage's box (`Box.at`). `history` are the trials that have
        ended, of all stages.
        """
