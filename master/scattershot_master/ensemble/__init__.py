"""The table of the [ensemble] methods: name → function."""

from scattershot_master.ensemble.greedy import greedy
from scattershot_master.ensemble.selection import Method
from scattershot_master.ensemble.top import top

METHODS: dict[str, Method] = {"greedy": greedy, "top": top}
