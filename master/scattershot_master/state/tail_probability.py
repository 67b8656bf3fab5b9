"""Owns how likely it is that so many or more of a few fall where they do by chance alone."""

from __future__ import annotations

from math import comb


def binomial(trials: int, chance: float, least: int) -> float:
    """Return P(X >= least) of the successes X in so many trials of that chance each.

    >>> binomial(2, 0.5, 1)
    0.75
    """
    return sum(
        comb(trials, m) * chance**m * (1 - chance) ** (trials - m) for m in range(least, trials + 1)
    )


def hypergeometric(everyone: int, few: int, drawn: int, least: int) -> float:
    """Return P(X >= least) of how many X of `drawn` from everyone are among the few.

    >>> hypergeometric(4, 2, 2, 2) == 1 / 6
    True
    """
    ways = (comb(few, m) * comb(everyone - few, drawn - m) for m in range(least, drawn + 1))
    return sum(ways) / comb(everyone, drawn)
