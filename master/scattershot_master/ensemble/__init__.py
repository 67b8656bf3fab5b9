"""Owns the table of the [ensemble] methods: name → function."""

from collections.abc import Callable

from scattershot_master.ensemble.base import Selection
from scattershot_master.ensemble.greedy import greedy
from scattershot_master.ensemble.top import top

METHODS: dict[str, Callable[..., Selection]] = {"greedy": greedy, "top": top}
