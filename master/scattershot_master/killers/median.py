"""The median rule: a trial worse than the median of its peers at the same epoch is killed.

Golovin et al. 2017, "Google Vizier: A Service for Black-Box Optimization", section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scattershot_master.killers.percentile import Percentile


@dataclass(frozen=True, kw_only=True)
class Median(Percentile):
    """The percentile rule at 50: a trial's best so far against the median of its peers'."""

    percentile: float = field(default=50.0, init=False)

    @property
    def bar(self) -> tuple[str, str]:
        """The rule's name and what it compares with, for the reason."""
        return "median", "the median"
