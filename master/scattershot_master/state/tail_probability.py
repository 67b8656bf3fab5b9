"""Upper tails of the binomial and the hypergeometric distribution."""

from __future__ import annotations

from math import comb


def binomial(trials: int, chance: float, least: int) -> float:
    """Return P(X >= least) for X successes in `trials` trials of probability `chance` each.

    >>> binomial(2, 0.5, 1)
    0.75
    """
    return sum(
        comb(trials, m) * chance**m * (1 - chance) ** (trials - m) for m in range(least, trials + 1)
    )


def hypergeometric(population: int, marked: int, drawn: int, least: int) -> float:
    """Return P(X >= least) for X marked ones among `drawn` of a population, without replacement.

    >>> hypergeometric(4, 2, 2, 2) == 1 / 6
    True
    """
    ways = (comb(marked, m) * comb(population - marked, drawn - m) for m in range(least, drawn + 1))
    return sum(ways) / comb(population, drawn)
