"""The [kill] rules that a study file may name. A new one is a file here and a row in this table."""

from scattershot_master.killers.diverged import Diverged
from scattershot_master.killers.halving import Halving
from scattershot_master.killers.killer import Killer
from scattershot_master.killers.median import Median
from scattershot_master.killers.patience import Patience
from scattershot_master.killers.percentile import Percentile
from scattershot_master.killers.sync_halving import SyncHalving

#: The names are those of `settings.Rule`.
KILLERS: dict[str, type[Killer]] = {
    "halving": Halving,
    "sync_halving": SyncHalving,
    "median": Median,
    "percentile": Percentile,
    "diverged": Diverged,
    "patience": Patience,
}
